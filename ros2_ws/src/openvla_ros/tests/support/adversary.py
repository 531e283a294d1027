"""Whatever may be sent to a controller, and whatever may happen to it, right and wrong."""

from dataclasses import replace

import numpy as np
from support.action_spaces import Speaker

from openvla_ros.profile import RobotProfile
from openvla_ros.robot.controller import ArmController
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimiter, MotionLimits
from openvla_ros.robot.output import ControllerState
from openvla_ros.robot.safety.chunk import ReceivedChunk
from openvla_ros.values.verdict import Reason

PERIOD_NS = 10_000_000
MOTION = ("positions", "velocities", "accelerations")
OWNERS = ("policy", "teleoperation")
# Chunks for each tick of the loop: most are refused, and refusing is what is tested.
BURST = 12


class Adversary:
    """Sends all sorts of things to a controller, and moves the arm as it is commanded to."""

    def __init__(self, profile: RobotProfile, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.profile = profile
        self.space = profile.space()
        self.controller = ArmController(profile)
        self.q = np.array(profile.arm.neutral)
        self.now_ns = 10**12
        self.last: ReceivedChunk | None = None
        self.heading = np.zeros(self.space.width)
        self.burst = BURST
        self.sent = 0
        self.accepted = 0
        self.runs: list[list[tuple[int, np.ndarray]]] = [[]]  # a new one after the loop stood still
        self.output = self.controller.tick(self.now_ns)
        limits = MotionLimits.from_profile(profile.limits)
        self.brake = MotionLimiter(limits, PERIOD_NS * 1e-9, target_stop_s=0.1)
        self.gap = False  # whether joint states have stopped coming
        self.outside_m = np.inf
        self.led_outside = False

    def chunk(self) -> ReceivedChunk:
        rng, space = self.rng, self.space
        self.choose_heading()
        values = self.steps(int(rng.choice([1, 1, 1, 2, 8])))
        good = ReceivedChunk(
            space.names,
            self.profile.action_frame_id(),
            self.now_ns - int(rng.integers(0, 3 * 10**8)),
            space.step_s,
            values,
        )
        return self.spoil(good)

    def choose_heading(self) -> None:
        rng, space = self.rng, self.space
        if rng.random() < 0.05:  # a policy that keeps on going one way
            self.heading = rng.uniform(space.lower, space.upper) * (rng.random() < 0.9)

    def steps(self, count: int) -> np.ndarray:
        rng, space = self.rng, self.space
        if rng.random() < 0.5:
            return rng.uniform(space.lower, space.upper, (count, space.width))
        return np.tile(self.heading, (count, 1))

    def spoil(self, good: ReceivedChunk) -> ReceivedChunk:
        rng, values = self.rng, good.values.copy()
        at = int(rng.integers(len(values))), int(rng.integers(self.space.width))
        match int(rng.integers(18)):
            case 0:
                values[at] = rng.choice([np.nan, np.inf, -np.inf])
            case 1:
                values[at] = rng.choice([1e300, -1e9, 3.0, 0.2501, -0.0501])
            case 2:
                values = values[:, : int(rng.integers(self.space.width))]
            case 3:
                values = np.hstack([values, values])
            case 4:
                values = values[:0]
            case 5:
                return replace(good, names=good.names[::-1])
            case 6:
                return replace(good, frame_id="elsewhere")
            case 7:
                return replace(good, step_s=float(rng.choice([0.0, -1.0, np.nan, 1e-9, 10.0])))
            case 8:
                return replace(good, stamp_ns=self.now_ns + int(rng.integers(10**12)))
            case 9:
                return replace(good, stamp_ns=int(rng.integers(self.now_ns)))
            case 10 if self.last is not None:
                return self.last
            case 11:
                return replace(good, stamp_ns=-(2**62))
            case _:
                return good
        return replace(good, values=values)

    def disturb(self) -> None:
        """Something that an operator, a driver or a clock may do, now and then."""
        rng, controller = self.rng, self.controller
        match int(rng.integers(1600)):
            case 0:
                controller.e_stop("adversary")
            case 1:
                controller.hold()
            case 2 | 3:
                controller.give_to(str(rng.choice(OWNERS)))
            case 4:
                controller.go_to(str(rng.choice(["home", "neutral", "park"])))
            case 5:
                self.now_ns -= int(rng.integers(10**10))
            case 6:
                controller.observe(rng.normal(0, 10, 3), None, None, self.now_ns, self.now_ns)
            case 7:
                controller.observe(np.full(len(self.q), np.nan), None, None, self.now_ns, self.now_ns)
            case 8:
                force, torque = rng.normal(0, 60, 3), rng.normal(0, 60, 3)
                controller.observe_wrench(force, torque, self.now_ns, self.now_ns)
            case 9:
                self.gap = not self.gap  # joint states stop coming, or come again
            case 10:
                controller.observe(
                    self.q + rng.normal(0, 0.3, len(self.q)), None, None, self.now_ns, self.now_ns
                )
            case _:
                return
        if rng.random() < 0.7:
            controller.reset_e_stop()
            controller.give_to(controller.tick(self.now_ns).owner)
            controller.observe_wrench(np.zeros(3), np.zeros(3), self.now_ns, self.now_ns)
            self.gap = False

    def tick(self) -> None:
        rng = self.rng
        self.now_ns += PERIOD_NS if rng.random() < 0.97 else int(rng.integers(0, 5 * PERIOD_NS))
        if rng.random() < 0.002:
            self.stand_still(float(rng.uniform(0.05, 2.0)))
        if not self.gap:
            lag = self.q + rng.normal(0, 1e-3, len(self.q))
            self.controller.observe(lag, None, None, self.now_ns, self.now_ns)
            self.controller.observe_wrench(np.zeros(3), np.zeros(3), self.now_ns, self.now_ns)
        self.disturb()
        owner = str(rng.choice(OWNERS)) if rng.random() < 0.1 else self.controller.tick(self.now_ns).owner
        for _ in range(int(rng.integers(2 * self.burst))):
            chunk = self.chunk()
            self.sent += 1
            if self.controller.accept(chunk, owner, self.now_ns).commands:
                self.last = chunk
                self.accepted += 1
        before, self.output = self.output, self.controller.tick(self.now_ns)
        output = self.output
        if output.counters.get(Reason.OVERRUN) != before.counters.get(Reason.OVERRUN):
            self.runs.append([])
        if output.joint_positions is not None:
            # A tick that comes early repeats the command: only what changed is a step.
            same = np.array_equal(output.joint_positions, self.q)
            repeated = same and bool(self.runs[-1]) and self.runs[-1][-1][0] == output.stamp_ns
            if (output.at_rest and not repeated) or not same:
                if not self.runs[-1] and len(self.runs) > 1:
                    self.check_resumption(output)
                self.runs[-1].append((output.stamp_ns, np.array(output.joint_positions)))
            self.q = np.array(output.joint_positions)
        self.check(output)

    def stand_still(self, seconds: float) -> None:
        """Let the loop stand still: the arm brakes by itself, as the last command said."""
        self.now_ns += round(seconds * 1e9)
        if self.output.joint_positions is not None:
            motion = JointMotion(*(np.array(getattr(self.output, f"joint_{k}")) for k in MOTION))
            self.q = self.brake.stop_after(motion, seconds).position

    def check_resumption(self, output) -> None:
        """Check that the first command after the loop stood still is about where the arm is."""
        limits = self.profile.limits
        reach = np.array(limits.joint_velocity) * (0.05 + self.profile.arm_backend.lookahead_s)
        assert np.all(np.abs(output.joint_positions - self.q) <= reach + limits.tracking_error_rad)

    def check(self, output) -> None:
        assert output.gripper_opening in (None, 0.0, 1.0)
        if output.state is ControllerState.E_STOP:
            assert output.verdict.reason is Reason.E_STOP
        if output.joint_positions is None:
            # Stopped for what the robot reports, and then the loop stood still: it has not been seen since.
            unseen = output.counters.get(Reason.OVERRUN, 0) and output.state is ControllerState.STOPPED
            allowed = (ControllerState.IDLE, ControllerState.E_STOP, ControllerState.HOLDING)
            assert output.state in allowed or unseen
        else:
            limit = np.array(self.profile.limits.joint_velocity)
            assert np.all(np.abs(output.joint_velocities) <= limit)
            self.check_workspace(output)

    def check_workspace(self, output) -> None:
        limits = self.profile.limits
        position = output.tool.position
        outside = np.maximum(limits.workspace_lower - position, position - limits.workspace_upper).max()
        # Named poses and giving way may lead outside; from rest on, chunks may not.
        if output.state in (ControllerState.HOMING, ControllerState.STOPPED):
            self.led_outside = True
        elif output.at_rest:
            self.led_outside = False
        if not self.led_outside and np.isfinite(self.outside_m):
            assert outside <= max(limits.workspace_tolerance_m, self.outside_m) + 1e-4
        self.outside_m = outside


class TargetAdversary(Adversary):
    """Sends targets instead of changes: near ones, far ones, and numbers that are no rotation."""

    def __init__(self, profile: RobotProfile, seed: int) -> None:
        super().__init__(profile, seed)
        self.speaker, self.heading = Speaker(profile), np.zeros(len(self.q))

    def choose_heading(self) -> None:
        if self.rng.random() < 0.05:
            self.heading = self.rng.uniform(-1.0, 1.0, len(self.q)) * (self.rng.random() < 0.9)

    def steps(self, count: int) -> np.ndarray:
        rng, space = self.rng, self.space
        if rng.random() < 0.2:  # anywhere
            return rng.uniform(space.lower, space.upper, (count, space.width))
        headings = np.tile(self.heading, (count, 1))
        if rng.random() < 0.3:
            headings = rng.uniform(-1.0, 1.0, headings.shape)
        reach_rad = float(rng.choice([0.05, 0.1, 0.2, 1.0]))
        places = self.q + reach_rad * np.vstack([np.zeros(len(self.q)), np.cumsum(headings, axis=0)])
        values = self.speaker.walk(places)
        values[:, -1] = rng.uniform(0.0, 1.0, count)
        return values


def adversary_of(profile: RobotProfile, seed: int) -> Adversary:
    return (TargetAdversary if profile.space().is_absolute else Adversary)(profile, seed)
