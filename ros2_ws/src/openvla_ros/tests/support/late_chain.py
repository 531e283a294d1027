"""The whole chain from a controller to a driver in virtual time, with pauses in every process of it.

Controller, setpoint node, and the robot's side (its driver, controller and joint states) are processes
that stand still at random, each for up to two seconds; messages between them are lost, doubled, late and
out of order. Only the pure cores run, the same that the nodes run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import replace

import numpy as np
from support.setpoint_checker import SetpointCheck

from openvla_ros.driver_profile import ArmBackend
from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.controller import ArmController
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.motion.joint_path import Waypoint
from openvla_ros.robot.motion.joint_trajectory_controller import JointTrajectoryController
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimits
from openvla_ros.robot.motion.setpoint_player import SetpointPlayer
from openvla_ros.robot.motion.streamed_trajectory import StreamedTrajectory, TrajectoryStream
from openvla_ros.robot.motion.twist_stream import TwistStream
from openvla_ros.robot.output import ControllerOutput, ControllerState
from openvla_ros.sim.simulated_driver import SimulatedDriver
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.geometry import Pose, transform_matrix_to_rotvec

PERIOD_NS = 10_000_000
LONGEST_PAUSE_S = 2.0
LOST, DOUBLED, LATE = 0.02, 0.02, 0.02
# Changes of jerk within 0.1 ms of each other are one point of a message.
MESSAGE_SHARE = 1.02
QUEUE = 10  # of a subscription
LAG_S = 0.03  # of the arm behind its setpoints
SERVO_TIMEOUT_NS = 100_000_000


class Link:
    """A topic: what is sent arrives a little later, or not, or twice, or much later."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng, self._sent = rng, []

    def send(self, message, now_ns: int) -> None:
        rng = self._rng
        if rng.random() < LOST:
            return
        for _ in range(1 + (rng.random() < DOUBLED)):
            late_s = rng.uniform(0.0, 0.3) if rng.random() < LATE else rng.uniform(1e-4, 2e-3)
            self._sent.append((now_ns + round(late_s * 1e9), message))

    def take(self, now_ns: int) -> list:
        due = sorted((m for m in self._sent if m[0] <= now_ns), key=lambda m: m[0])
        self._sent = [m for m in self._sent if m[0] > now_ns]
        return [message for _, message in due[-QUEUE:]]


class Process:
    """When something runs: every period, but for pauses; after a short one the missed calls are made up."""

    def __init__(self, rng: np.random.Generator, phase_ns: int, gap_s: float) -> None:
        self._rng, self._phase_ns, self._gap_s = rng, phase_ns, gap_s
        self.asleep_until_ns = 0
        self._next_pause_ns = phase_ns + round(rng.exponential(gap_s) * 1e9)
        self.pauses = 0
        self.calls = 0

    def due(self, now_ns: int) -> int:
        """Return how many calls are due in the period of ``now_ns``."""
        if now_ns < self.asleep_until_ns:
            self.calls += 1
            return 0
        if now_ns >= self._next_pause_ns:
            # As many of some milliseconds as of some tenths of a second: both ends of what may go wrong.
            seconds = float(np.exp(self._rng.uniform(np.log(0.004), np.log(LONGEST_PAUSE_S))))
            self.pauses += 1
            self.asleep_until_ns = now_ns + round(seconds * 1e9)
            self._next_pause_ns = self.asleep_until_ns + round(self._rng.exponential(self._gap_s) * 1e9)
            self.calls = 1
            return 0
        missed, self.calls = self.calls, 0
        return 1 + (missed if missed <= 5 else 0)


class Chain(ABC):
    """One robot with one kind of back end."""

    def __init__(self, profile: RobotProfile, backend: ArmBackend, seed: int, gap_s: float = 0.25) -> None:
        rng = np.random.default_rng(seed)
        control = replace(profile.control, homing_share=1.0)  # named poses are gone to at full speed
        self.profile = profile = replace(profile, arm_backend=backend, control=control)
        self.rng, self.backend = rng, backend
        self.limits = MotionLimits.from_profile(profile.limits)
        self.core = ArmController(profile)
        self.stream = TrajectoryStream(self.limits, backend.lookahead_s)
        self.commands, self.states = Link(rng), Link(rng)
        phases = rng.integers(0, PERIOD_NS, 3)
        self.processes = {
            name: Process(rng, int(phase), gap_s)
            for name, phase in zip(("controller", "setpoints", "driver"), phases, strict=True)
        }
        self.now_ns = 10**12
        self.epoch_ns = self.now_ns
        self.q = np.array(profile.arm.neutral)  # of the arm
        self.before = self.q
        self.setpoint = self.q
        self.measured: np.ndarray | None = None
        self.output: ControllerOutput | None = None
        self.begun_ns = 0  # when the last period is due that has begun before its time
        self.events: Counter[str] = Counter()
        self.check = SetpointCheck.of(profile)

    @property
    def pauses(self) -> int:
        return sum(process.pauses for process in self.processes.values())

    def seconds(self, stamp_ns: int) -> float:
        return (stamp_ns - self.epoch_ns) * 1e-9

    def worst_velocity(self) -> float:
        """Return the highest speed that was asked for, as a share of its limit."""
        return self.check.worst["velocity"]

    def note(self, reason: str, text: str) -> None:
        self.events[reason] += 1

    def run(self, pauses: int) -> None:
        while self.pauses < pauses:
            self.period()

    def period(self) -> None:
        self.now_ns += PERIOD_NS
        for name in self.rng.permutation(list(self.processes)):
            for _ in range(self.processes[name].due(self.now_ns)):
                getattr(self, f"run_{name}")()

    # The controller's process

    def run_controller(self) -> None:
        if self.now_ns <= self.begun_ns:  # this period has begun already
            return
        for stamp_ns, q in self.states.take(self.now_ns):
            if self.core.observe(q, None, None, stamp_ns, self.now_ns).commands:
                self.measured = q
        stopped = self.ask()
        self.tick(self.now_ns, self.now_ns)
        if stopped:  # between two periods: the next one begins at once, for the time that it is due
            self.core.hold()
            self.events["early"] += 1
            self.begun_ns = self.now_ns + PERIOD_NS
            self.tick(self.begun_ns, self.now_ns + int(self.rng.integers(0, PERIOD_NS)))

    def tick(self, due_ns: int, at_ns: int) -> None:
        """Run the period of ``due_ns``, and send what it gives at ``at_ns``."""
        before, output = self.output, self.core.tick(due_ns)
        self.output = output
        q = output.joint_positions
        if q is None or self.measured is None:
            return
        same = before is not None and np.array_equal(before.joint_positions, q)
        if output.at_rest or not same:
            motion = JointMotion(q, output.joint_velocities, output.joint_accelerations)
            self.send(output, motion, at_ns)

    def send(self, output: ControllerOutput, motion: JointMotion, at_ns: int) -> None:
        self.commands.send(self.stream.next(output.stamp_ns, PERIOD_NS * 1e-9, motion), at_ns)

    def ask(self) -> bool:
        """Keep the arm on its way from pose to pose; now and then do something else, or say that it stops."""
        rng, core = self.rng, self.core
        state = None if self.output is None else self.output.state
        chance = rng.random()
        if state is not ControllerState.HOMING or chance < 0.003:
            core.go_to(str(rng.choice(["home", "neutral", "park"])))
        elif chance < 0.004:
            return True
        elif chance < 0.01:
            core.give_to("policy")
            space = self.profile.space()
            actions = rng.uniform(space.lower, space.upper, (4, space.width))
            core.accept(ActionChunk(actions, self.now_ns, space), "policy", self.now_ns)
        return False

    # The robot's side

    def run_setpoints(self) -> None:  # noqa: B027 - most kinds of robot have no setpoint node
        """Only where the driver takes setpoints."""

    @abstractmethod
    def run_driver(self) -> None:
        """Let the robot's side take what arrived, and move the arm."""

    def go(self, setpoint: np.ndarray) -> None:
        """The arm follows its setpoint, and says where it is."""
        self.before, self.q = self.q, self.q + (setpoint - self.q) * min(1.0, PERIOD_NS * 1e-9 / LAG_S)
        self.states.send((self.now_ns, self.q.copy()), self.now_ns)


def joints_at(chain: KinematicChain, pose: Pose, near: np.ndarray) -> np.ndarray:
    """Return the joints of an arm with six that hold the tool at ``pose``: Newton's method from ``near``."""
    q = near
    for _ in range(30):
        here = chain.forward(q)
        turn = transform_matrix_to_rotvec(pose.rotation @ here.rotation.T)
        error = np.concatenate([pose.position - here.position, turn])
        if np.abs(error).max() < 1e-13:
            break
        q = q + np.linalg.lstsq(chain.jacobian(q), error, rcond=1e-9)[0]
    return q


class SetpointChain(Chain):
    """Behind the setpoint node: a driver that goes to each setpoint as it arrives, and holds it."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        profile = self.profile
        self.seen = Link(self.rng)
        self.player = SetpointPlayer(
            profile.arm.joints, self.limits, PERIOD_NS * 1e-9, profile.limits.tracking_error_rad, self.note
        )
        self.chain = KinematicChain.from_profile(profile.arm)
        self.poses: list[tuple[float, Pose]] = []
        if self.backend.kind == "interbotix":  # its command is of 32 bits
            self.check.quantum_rad = 2.0**-22

    def run_setpoints(self) -> None:
        for q in self.seen.take(self.now_ns):
            self.player.observe(q, self.seconds(self.now_ns))
        for sent in self.commands.take(self.now_ns):
            try:
                self.player.follow(
                    self.profile.arm.joints, sent.times_s, sent.positions, sent.velocities,
                    self.seconds(sent.stamp_ns or self.now_ns), self.seconds(self.now_ns),
                )  # fmt: skip
            except InvalidValueError:
                self.note("refused", "")
        setpoint = self.player.sample(self.seconds(self.now_ns))
        if setpoint is None:
            return
        if self.backend.kind == "interbotix":
            setpoint = setpoint.astype(np.float32)
        self.setpoint = np.array(setpoint, dtype=np.float64)
        if self.backend.kind == "cartesian_target":
            self.poses.append((self.seconds(self.now_ns), self.chain.forward(setpoint)))
        else:
            self.check.arrive(self.seconds(self.now_ns), setpoint)

    def violations(self) -> list[str]:
        """Return what is wrong with what arrived at the driver."""
        q = np.array(self.profile.arm.neutral)
        for time_s, pose in self.poses:
            q = joints_at(self.chain, pose, q)
            self.check.arrive(time_s, q)
        return self.check.violations()

    def run_driver(self) -> None:
        self.go(self.setpoint)
        self.seen.send(self.q.copy(), self.now_ns)


class TrajectoryChain(Chain):
    """A joint trajectory controller with a guard before the motors, as the simulated robot has it."""

    def __init__(self, *args, release="kilted", from_desired=False, **options) -> None:
        super().__init__(*args, **options)
        self.controller = JointTrajectoryController(
            self.profile.arm.joints, self.q, PERIOD_NS * 1e-9, release, from_desired
        )
        self.driver = SimulatedDriver(self.controller, self.limits, PERIOD_NS * 1e-9)
        self.messages: list[StreamedTrajectory] = []
        self.own_s = 0.0  # the robot's own time stands still while it does
        self.jump_rad = 0.0  # of what the controller commands without the guard

    def send(self, output, motion, at_ns) -> None:
        sent = self.stream.next(output.stamp_ns, PERIOD_NS * 1e-9, motion)
        self.messages.append(sent)
        self.commands.send(sent, at_ns)

    def run_driver(self) -> None:
        for sent in self.commands.take(self.now_ns):
            empty = [[]] * len(sent.times_s)
            stamp_s = self.own_s + (sent.stamp_ns - self.now_ns) * 1e-9 if sent.stamp_ns else None
            try:
                self.driver.receive(
                    self.profile.arm.joints, list(sent.times_s), list(sent.positions),
                    list(sent.velocities), empty, stamp_s, self.own_s,
                )  # fmt: skip
            except InvalidValueError:
                self.note("refused", "")
        velocity = (self.q - self.before) / (PERIOD_NS * 1e-9)
        before = self.controller.command.position
        setpoint = self.driver.sample(self.own_s, Waypoint(self.own_s, self.q, velocity))
        self.jump_rad = max(self.jump_rad, float(np.abs(self.controller.command.position - before).max()))
        self.check.arrive(self.own_s, setpoint)
        self.own_s += PERIOD_NS * 1e-9
        self.go(setpoint)

    def violations(self) -> list[str]:
        """Return what is wrong with the motors' setpoints, and with what the messages themselves ask for."""
        return self.check.violations() + [
            text for sent in self.messages for text in message_violations(self, sent)
        ]


def message_violations(chain: Chain, sent: StreamedTrajectory) -> list[str]:
    """Hold a message, joined by cubics as its taker does, to the limits: sampled, and differentiated."""
    check = SetpointCheck.of(chain.profile)
    end = sent.times_s[-1]
    times = np.arange(0.0, end, check.period_s)
    rows = [cubic(sent, t) for t in times]
    check.arrived = [(0.0, row) for row in rows]  # all in one run
    if len(rows) < 4:
        return []
    found = []
    for order, (limit, name) in enumerate(
        zip(check.limits, ("velocity", "acceleration", "jerk"), strict=True), 1
    ):
        share = np.abs(np.diff(rows, n=order, axis=0)) / check.period_s**order / limit
        if share.max() > MESSAGE_SHARE:
            found.append(f"a message: {name} {share.max():.4f} times its limit")
    return found


def cubic(sent: StreamedTrajectory, time_s: float) -> np.ndarray:
    """Return the positions at a time after the stamp, by Hermite's basis."""
    i = int(np.clip(np.searchsorted(sent.times_s, time_s, side="right"), 1, len(sent.times_s) - 1))
    span = sent.times_s[i] - sent.times_s[i - 1]
    u = (time_s - sent.times_s[i - 1]) / span
    (p0, p1), (v0, v1) = sent.positions[i - 1 : i + 1], sent.velocities[i - 1 : i + 1] * span
    return (
        (1 + 2 * u) * (1 - u) ** 2 * p0 + u * (1 - u) ** 2 * v0
        + u**2 * (3 - 2 * u) * p1 + u**2 * (u - 1) * v1
    )  # fmt: skip


class TwistChain(Chain):
    """MoveIt Servo: goes on at the last twist, and stops by itself after its timeout."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.chain = KinematicChain.from_profile(self.profile.arm)
        self.twists = TwistStream(self.chain, self.limits, PERIOD_NS * 1e-9, SERVO_TIMEOUT_NS * 1e-9)
        self.twist, self.twist_ns = np.zeros(6), 0
        self.sent: list[tuple[int, np.ndarray, np.ndarray]] = []  # stamp, joints, twist

    def send(self, output, motion, at_ns) -> None:
        assert output.tool is not None
        twist = self.twists.next(output.stamp_ns, motion, output.tool, self.measured)
        if twist is not None:
            self.sent.append((output.stamp_ns, motion.position, twist))
            self.commands.send((self.now_ns, twist), self.now_ns)

    def run_driver(self) -> None:
        for stamp_ns, twist in self.commands.take(self.now_ns):
            self.twist, self.twist_ns = twist, stamp_ns
        velocity = np.zeros(len(self.q))
        if self.now_ns - self.twist_ns <= SERVO_TIMEOUT_NS:
            jacobian = self.chain.jacobian(self.q)
            velocity = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-4 * np.eye(6), self.twist)
            velocity /= max(1.0, float((np.abs(velocity) / self.limits.velocity).max()))
        self.before, self.q = (
            self.q,
            np.clip(self.q + velocity * PERIOD_NS * 1e-9, self.limits.lower, self.limits.upper),
        )
        self.states.send((self.now_ns, self.q.copy()), self.now_ns)

    def violations(self) -> list[str]:
        """Hold the joint velocities that the twists ask for to the limits."""
        worst = dict.fromkeys(("velocity", "acceleration", "jerk"), 0.0)
        run: list[np.ndarray] = []
        before_ns = None
        for stamp_ns, q, twist in self.sent:
            jacobian = self.chain.jacobian(q)
            if np.linalg.cond(jacobian) > 1e4:  # the twist does not say which velocities these were
                run, before_ns = [], None
                continue
            if before_ns is None or stamp_ns - before_ns > SERVO_TIMEOUT_NS:
                run = [np.zeros(len(q))] * 2 if before_ns is not None else []
            before_ns = stamp_ns
            run = [*run[-2:], np.linalg.solve(jacobian, twist)]
            rates = [run[-1]]
            rates += [np.diff(run[-order - 1 :], n=order, axis=0)[0] for order in (1, 2) if len(run) > order]
            for order, (name, rate) in enumerate(zip(worst, rates, strict=False)):
                limit = self.check.limits[order] * (PERIOD_NS * 1e-9) ** order
                worst[name] = max(worst[name], float((np.abs(rate) / limit).max()))
        self.check.worst = worst
        return [f"{name}: {share:.3f} times its limit" for name, share in worst.items() if share > 1.0 + 1e-6]
