"""The controller's core: received chunks in, joint commands at the control rate out.

Sits between the messages (the controller node) and the arm's own software. Holds what lives from
tick to tick: who owns the arm, the commanded target, the queue of steps, the commanded joint
motion, what latched a stop. Every time is a stamp in nanoseconds that the caller passes in: there
is no clock here, so recorded, simulated and live time all work.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from openvla_ros.action import ActionChunk
from openvla_ros.arrays import Float, read_only
from openvla_ros.errors import InvalidValueError
from openvla_ros.geometry import Pose
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.braking import JointMotion, MotionLimiter, MotionLimits
from openvla_ros.robot.composition import compose
from openvla_ros.robot.inverse import InverseKinematics, rotation_error
from openvla_ros.robot.kinematics import KinematicChain
from openvla_ros.robot.safety import OK, ChunkChecks, ReceivedChunk, RobotState, StateChecks, TargetLimits
from openvla_ros.robot.trajectory import ToolPath
from openvla_ros.verdict import Reason, SafetyVerdict

Owner = Literal["policy", "teleoperation", "recovery"]
NamedPose = Literal["home", "neutral", "park"]

# The inverse step plans with this share of the velocity limits; the rest is for catching up.
PLANNED_SHARE = 0.9
# The joint reference may run ahead of the commanded joints by this much before it waits, radians.
LEAD_RAD = 0.3
# How many control periods of line time are remembered, to correct for an observation's age.
HISTORY = 400
# Weight of the newest interval between chunks in their running mean.
INTERVAL_WEIGHT = 0.3


class ControllerState(str, Enum):
    """What the controller is doing."""

    IDLE = "idle"  # has commanded nothing since it started
    EXECUTING = "executing"
    HOMING = "homing"
    HOLDING = "holding"  # at rest, or coming to rest
    STOPPED = "stopped"  # the robot's own reports forbid motion, or the controller was shut down
    E_STOP = "e_stop"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, eq=False)
class ControllerOutput:
    """What goes out at one tick. Nothing is commanded where ``joint_positions`` is None."""

    stamp_ns: int
    state: ControllerState
    owner: Owner
    verdict: SafetyVerdict
    joint_positions: Float | None  # (J,) rad, in the profile's joint order
    joint_velocities: Float | None  # (J,) rad/s
    joint_accelerations: Float | None  # (J,) rad/s²
    gripper_opening: float | None  # 0 closed .. 1 open
    tool: Pose | None  # where the commanded joints put the tool: what a Cartesian back end is sent
    target: Pose | None  # the composed target that the tool is on its way to
    at_rest: bool  # no commanded joint moves
    settled: bool  # nothing is left to execute and the commanded joints are at rest
    counters: Mapping[Reason, int]  # events for each reason since the start


class ArmController:
    """The pure core of the controller node for one robot profile."""

    def __init__(self, profile: RobotProfile, owner: Owner = "policy") -> None:
        limits, control = profile.limits, profile.control
        self.profile = profile
        self.chain = KinematicChain.from_profile(profile.arm)
        self.period_s = 1.0 / control.rate_hz
        self._space = profile.space()
        self._motion_limits = MotionLimits.from_profile(limits)
        self._limiter = MotionLimiter(self._motion_limits, self.period_s)
        velocity = PLANNED_SHARE * self._motion_limits.velocity
        self._inverse = InverseKinematics(
            self.chain, limits.joint_lower, limits.joint_upper, velocity, profile.arm.neutral
        )
        self._path = ToolPath(self.period_s, control.blend_s)
        self._chunk_checks = ChunkChecks(profile)
        self._target_limits = TargetLimits(profile)
        self._state_checks = StateChecks(profile)

        self._owner: Owner = owner
        self._state = ControllerState.IDLE
        self._verdict = SafetyVerdict.hold(Reason.WAITING, "nothing has been asked for")
        self._latched: SafetyVerdict | None = None  # e-stop, hold or shut-down: until the operator clears it
        self._fault: SafetyVerdict | None = None  # what the robot reports, until it is over
        self._counters: Counter[Reason] = Counter()

        self._robot: RobotState | None = None
        self._wrench: tuple[Float, Float] | None = None
        self._motion: JointMotion | None = None
        self._reference: JointMotion | None = None
        self._gripper: float | None = None
        self._anchored = False
        self._queue: deque[Float] = deque()
        self._homing: _Homing | None = None

        self._now_ns: int | None = None
        self._credit_s = 0.0
        self._line_s = 0.0
        self._history: deque[tuple[int, float]] = deque(maxlen=HISTORY)
        self._last_stamp_ns: int | None = None  # of the newest accepted observation
        self._accepted_ns: int | None = None
        self._interval_s: float | None = None
        self._step_s = self._space.step_s
        self._fed_ns = 0  # when the last step ended or a chunk was accepted
        self._look_after_ns: int | None = None  # an older observation does not show where the arm is now

    # What the robot reports

    def observe(
        self,
        joint_positions: ArrayLike,
        velocities: ArrayLike | None,
        effort: ArrayLike | None,
        stamp_ns: int,
        now_ns: int,
    ) -> SafetyVerdict:
        """Take in a joint state in the profile's joint order; returns why it is not used, or OK."""
        count = len(self.profile.arm.joints)
        arrays = []
        for name, value in (("positions", joint_positions), ("velocities", velocities), ("effort", effort)):
            array = None if value is None else np.array(value, dtype=np.float64)
            if array is not None and (array.shape != (count,) or not np.isfinite(array).all()):
                return self._refuse(
                    SafetyVerdict.hold(
                        Reason.STATE_INVALID, f"joint {name} are {array}; they must be {count} finite numbers"
                    )
                )
            arrays.append(None if array is None else read_only(array))
        if arrays[0] is None:
            return self._refuse(SafetyVerdict.hold(Reason.STATE_INVALID, "the joint state has no positions"))
        if self._robot is not None and stamp_ns < self._robot.stamp_ns:
            return self._refuse(
                SafetyVerdict.hold(Reason.OUT_OF_ORDER, "the joint state is older than the one before")
            )
        self._robot = RobotState(stamp_ns, arrays[0], arrays[1], arrays[2])
        return OK

    def observe_wrench(self, force: ArrayLike, torque: ArrayLike) -> SafetyVerdict:
        """Take in the external force (3,) N and torque (3,) N m; returns why it is not used, or OK."""
        wrench = np.array(force, dtype=np.float64), np.array(torque, dtype=np.float64)
        if any(part.shape != (3,) or not np.isfinite(part).all() for part in wrench):
            return self._refuse(SafetyVerdict.hold(Reason.STATE_INVALID, f"the external wrench is {wrench}"))
        self._wrench = wrench
        return OK

    # What is asked of the arm

    def accept(self, chunk: ActionChunk | ReceivedChunk, source: Owner, now_ns: int) -> SafetyVerdict:
        """Queue ``chunk`` for execution, or refuse it; returns which, and why."""
        received = ReceivedChunk.from_chunk(chunk, self.profile) if isinstance(chunk, ActionChunk) else chunk
        verdict = self._judge(received, source, now_ns)
        if not verdict.commands:
            return self._refuse(verdict)
        self._last_stamp_ns = received.stamp_ns
        self._note_interval(now_ns)
        if not self._anchored:
            self._anchor()
        skipped = self._steps_past(received, now_ns)
        self._queue = deque(received.values[skipped:])
        self._step_s = self._stretched(len(self._queue))
        self._accepted_ns = self._fed_ns = now_ns
        self._state = ControllerState.EXECUTING
        detail = f"{skipped} of {len(received.values)} steps are past" if skipped else ""
        return SafetyVerdict.command(Reason.OK, detail)

    def e_stop(self, source: str) -> SafetyVerdict:
        """Stop as fast as the limits allow and stay stopped until ``reset_e_stop``."""
        return self._latch(Reason.E_STOP, f"emergency stop by {source}", ControllerState.E_STOP)

    def reset_e_stop(self) -> SafetyVerdict:
        """Clear the emergency stop; the arm stays held until ``give_to`` names who may move it."""
        if self._latched is None or self._latched.reason is not Reason.E_STOP:
            return SafetyVerdict.command(Reason.OK, "there is no emergency stop to reset")
        self._latched = None
        return self._latch(Reason.HELD, "emergency stop reset; give the arm to an owner to go on")

    def hold(self) -> SafetyVerdict:
        """Come smoothly to rest and stay there until ``give_to`` or ``go_to``."""
        return self._latch(Reason.HELD, "held by the operator; give the arm to an owner to go on")

    def give_to(self, owner: Owner) -> SafetyVerdict:
        """Make ``owner`` the only source whose chunks are executed; the arm comes to rest first."""
        if owner not in get_args(Owner):
            raise InvalidValueError(f"owner is {owner!r}; it must be one of {', '.join(get_args(Owner))}")
        if self._latched is not None and self._latched.reason in (Reason.E_STOP, Reason.SHUT_DOWN):
            return self._refuse(self._latched)
        self._latched = None
        self._owner = owner
        self._look_after_ns = self._now_ns
        self._come_to_rest(SafetyVerdict.hold(Reason.WAITING, f"waiting for {owner}"))
        return OK

    def go_to(self, name: NamedPose) -> SafetyVerdict:
        """Start moving along a straight line in joint space to a named pose of the profile."""
        if name not in get_args(NamedPose):
            raise InvalidValueError(f"pose is {name!r}; it must be one of {', '.join(get_args(NamedPose))}")
        if self._latched is not None and self._latched.reason is not Reason.HELD:
            return self._refuse(self._latched)
        now_ns = self._now_ns if self._now_ns is not None else -1
        verdict = self._state_checks.check(self._robot, None, self._wrench, now_ns)
        if not verdict.commands:
            return self._refuse(verdict)
        if self._motion is None:
            self._anchor()
        self._come_to_rest(SafetyVerdict.command())
        self._homing = _Homing(name, np.array(getattr(self.profile.arm, name)))
        self._state = ControllerState.HOMING
        return SafetyVerdict.command(Reason.OK, f"on the way to {name}")

    def shutdown(self) -> ControllerOutput:
        """Begin the last stop; ``tick`` until the output is at rest, then send nothing more."""
        self._latch(Reason.SHUT_DOWN, "the controller is shutting down", ControllerState.STOPPED)
        return self._output(self._now_ns or 0)

    # The loop

    def tick(self, now_ns: int) -> ControllerOutput:
        """Advance the motion by one control period if one has passed, and return what to command."""
        if not self._period_passed(now_ns):
            return self._output(now_ns)
        self._watch(now_ns)
        match self._state:
            case ControllerState.EXECUTING:
                self._execute(now_ns)
            case ControllerState.HOMING:
                self._home(now_ns)
            case _:
                self._brake()
        self._history.append((now_ns, self._line_s))
        return self._output(now_ns)

    def _period_passed(self, now_ns: int) -> bool:
        """Whether a control period is due: late ticks slow the motion down, early ones never speed it up."""
        if self._now_ns is None:
            self._now_ns = now_ns
            return True
        elapsed_s = (now_ns - self._now_ns) * 1e-9
        self._now_ns = now_ns
        if elapsed_s < 0.0:
            self._forget_time()
            return False
        self._credit_s = min(self._credit_s + elapsed_s, 1.5 * self.period_s)
        if self._credit_s < 0.5 * self.period_s:
            return False
        self._credit_s -= self.period_s
        return True

    def _forget_time(self) -> None:
        """The clock went back (a simulation was reset): nothing from before it means anything now."""
        self._last_stamp_ns = self._look_after_ns = self._accepted_ns = self._interval_s = None
        self._robot = None
        self._history.clear()
        self._credit_s = 0.0
        if self._state in (ControllerState.EXECUTING, ControllerState.HOMING):
            self._interrupt(SafetyVerdict.hold(Reason.TIMING, "the clock went back"))

    def _watch(self, now_ns: int) -> None:
        """Stop while the robot's own reports forbid motion, and go on holding when that is over."""
        if self._motion is None:
            return
        verdict = self._state_checks.check(self._robot, self._motion.position, self._wrench, now_ns)
        if verdict.commands:
            if self._fault is not None:
                self._fault = None
                if self._state is ControllerState.STOPPED and self._latched is None:
                    self._state = ControllerState.HOLDING
            return
        if self._fault is None or self._fault.reason is not verdict.reason:
            self._interrupt(verdict)
        self._fault = verdict
        if self._latched is None:
            self._state, self._verdict = ControllerState.STOPPED, verdict

    def _execute(self, now_ns: int) -> None:
        assert self._motion is not None
        assert self._reference is not None
        if self._owner == "teleoperation" and self._seconds_since(self._accepted_ns, now_ns) > (
            self.profile.control.dead_man_s
        ):
            self._interrupt(SafetyVerdict.hold(Reason.DEAD_MAN, "the operator's hand is off"))
            self._brake()
            return
        if self._path.step_done:
            if self._queue:
                self._begin_step()
                self._fed_ns = now_ns
            elif self._is_over(now_ns):
                self._brake()
                return
        else:
            self._fed_ns = now_ns
        self._follow_path()

    def _begin_step(self) -> None:
        action = self._queue.popleft()
        base, verdict = self._path.target, OK
        drift = self._drift()
        if drift is not None:
            base, verdict = self._measured_tool(), drift
            self._count(verdict)
        target, limited = self._target_limits.limit(compose(base, action, self._space), base)
        if limited.reason is not Reason.OK:
            verdict = limited
            self._count(limited)
        self._path.begin(target, self._step_s)
        self._verdict = verdict
        self._set_gripper(self._space.opening(float(action[-1])))

    def _follow_path(self) -> None:
        motion, reference = self._motion, self._reference
        assert motion is not None
        assert reference is not None
        if np.abs(reference.position - motion.position).max() > LEAD_RAD:
            self._command(self._limiter.follow(motion, JointMotion.at_rest(reference.position)))
            self._reference = JointMotion.at_rest(reference.position)
            return
        if not self._path.step_done:
            self._line_s += self.period_s
        pose = self._path.advance()
        step = self._inverse.step(reference.position, pose, self.period_s)
        control = self.profile.control
        if step.position_error_m > control.leash_m or step.rotation_error_rad > control.reanchor_error_rad:
            self._interrupt(
                SafetyVerdict.hold(
                    Reason.INVERSE_KINEMATICS,
                    f"the target cannot be reached: {step.position_error_m:.3f} m and "
                    f"{step.rotation_error_rad:.3f} rad off; the limits are {control.leash_m} m and "
                    f"{control.reanchor_error_rad} rad",
                )
            )
            self._brake()
            return
        velocity = (step.q - reference.position) / self.period_s
        bound = self._motion_limits.acceleration
        acceleration = np.clip((velocity - reference.velocity) / self.period_s, -bound, bound)
        self._reference = JointMotion(step.q, velocity, acceleration)
        self._command(self._limiter.follow(motion, self._reference))

    def _is_over(self, now_ns: int) -> bool:
        """Whether the motion ends here: the move is done (blocking) or no chunk came in time."""
        control = self.profile.control
        assert self._motion is not None
        if control.mode == "blocking":
            if not (self._path.settled and self._motion.is_at_rest):
                return False
            self._look_after_ns = now_ns
            self._state = ControllerState.HOLDING
            self._verdict = SafetyVerdict.hold(Reason.WAITING, "the move is done; look, then send the next")
            return True
        starved_s = self._seconds_since(self._fed_ns, now_ns)
        if starved_s <= control.hold_after_s:
            return False
        self._interrupt(
            SafetyVerdict.hold(
                Reason.STARVED, f"no new chunk for {starved_s:.2f} s; the limit is {control.hold_after_s} s"
            )
        )
        return True

    def _home(self, now_ns: int) -> None:
        homing, motion = self._homing, self._motion
        assert homing is not None
        assert motion is not None
        if homing.start is None:
            if not motion.is_at_rest:
                self._brake()
                return
            homing.begin(
                motion.position, self._motion_limits.scaled(self.profile.control.homing_share), self.period_s
            )
        self._command(homing.advance())
        if homing.done:
            self._homing = None
            self._look_after_ns = now_ns
            self._anchored = False
            self._state = ControllerState.HOLDING
            self._verdict = self._latched or SafetyVerdict.hold(Reason.WAITING, f"at {homing.name}")

    def _brake(self) -> None:
        if self._motion is not None:
            self._command(self._limiter.stop(self._motion))

    def _command(self, motion: JointMotion) -> None:
        self._motion = motion

    # Parts

    def _judge(self, chunk: ReceivedChunk, source: Owner, now_ns: int) -> SafetyVerdict:
        if self._latched is not None:
            return self._latched
        if source != self._owner:
            return SafetyVerdict.hold(
                Reason.OWNER, f"a chunk from {source}; the arm belongs to {self._owner}"
            )
        verdict = self._chunk_checks.check(chunk, now_ns)
        if not verdict.commands:
            return verdict
        verdict = self._state_checks.check(self._robot, None, self._wrench, now_ns)
        if not verdict.commands:
            return verdict
        return self._fault or self._order(chunk) or OK

    def _order(self, chunk: ReceivedChunk) -> SafetyVerdict | None:
        if self._state is ControllerState.HOMING:
            return SafetyVerdict.hold(Reason.BUSY, "the arm is on its way to a named pose")
        if self.profile.control.mode == "blocking" and self._state is ControllerState.EXECUTING:
            return SafetyVerdict.hold(Reason.BUSY, "the move before is not over")
        if self._last_stamp_ns is not None and chunk.stamp_ns <= self._last_stamp_ns:
            reason = Reason.DUPLICATE if chunk.stamp_ns == self._last_stamp_ns else Reason.OUT_OF_ORDER
            late_s = (self._last_stamp_ns - chunk.stamp_ns) * 1e-9
            return SafetyVerdict.hold(
                reason, f"the observation is {late_s:.3f} s older than the last one used"
            )
        if self._look_after_ns is not None and chunk.stamp_ns < self._look_after_ns:
            early_s = (self._look_after_ns - chunk.stamp_ns) * 1e-9
            return SafetyVerdict.hold(
                Reason.BUSY, f"the observation is from {early_s:.3f} s before the arm was ready for it"
            )
        return None

    def _anchor(self) -> None:
        """Start from the measured pose; the commanded joints go on from where they are."""
        assert self._robot is not None
        if self._motion is None:
            self._motion = JointMotion.at_rest(self._robot.positions)
        self._reference = JointMotion.at_rest(self._motion.position)
        self._path.reset(self.chain.forward(self._motion.position))
        self._path.jump(self._measured_tool())
        self._anchored = True

    def _measured_tool(self) -> Pose:
        assert self._robot is not None
        return self.chain.forward(self._robot.positions)

    def _drift(self) -> SafetyVerdict | None:
        """Return why the next step must start from the measured pose, or None."""
        assert self._motion is not None
        assert self._robot is not None
        commanded, measured = self.chain.frames(np.stack([self._motion.position, self._robot.positions]))[
            :, -1
        ]
        off_m = float(np.linalg.norm(commanded[:3, 3] - measured[:3, 3]))
        off_rad = float(np.linalg.norm(rotation_error(commanded[:3, :3], measured[:3, :3])))
        control = self.profile.control
        if off_m <= control.reanchor_error_m and off_rad <= control.reanchor_error_rad:
            return None
        return SafetyVerdict.command(
            Reason.TRACKING,
            f"started again from the measured tool, {off_m:.3f} m and {off_rad:.3f} rad off",
        )

    def _note_interval(self, now_ns: int) -> None:
        interval_s = self._seconds_since(self._accepted_ns, now_ns)
        if self._state is not ControllerState.EXECUTING or not np.isfinite(interval_s):
            self._interval_s = None
        elif self._interval_s is None:
            self._interval_s = interval_s
        else:
            self._interval_s += INTERVAL_WEIGHT * (interval_s - self._interval_s)

    def _stretched(self, steps: int) -> float:
        """Return how long each of ``steps`` lasts, so that they reach until the next chunk is due."""
        step_s = self._space.step_s
        if self._interval_s is None or self.profile.control.mode == "blocking":
            return step_s
        longest = self.profile.control.stretch_max * step_s
        return float(np.clip(self._interval_s / steps, step_s, longest))

    def _steps_past(self, chunk: ReceivedChunk, now_ns: int) -> int:
        """Return how many steps the arm has already made, or is making, since the observation."""
        if self.profile.control.mode == "blocking" or self._state is not ControllerState.EXECUTING:
            return 0
        then_s = next((line for stamp, line in reversed(self._history) if stamp <= chunk.stamp_ns), None)
        if then_s is None:
            return 0
        made_s = self._line_s - then_s + self._path.remaining_s
        return min(int(made_s / self._step_s + 0.25), len(chunk.values) - 1)

    def _set_gripper(self, opening: float) -> None:
        gripper = self.profile.gripper
        if self._gripper is None:
            self._gripper = 1.0 if opening > gripper.threshold else 0.0
        elif opening > gripper.threshold + gripper.hysteresis:
            self._gripper = 1.0
        elif opening < gripper.threshold - gripper.hysteresis:
            self._gripper = 0.0

    def _latch(
        self, reason: Reason, detail: str, state: ControllerState = ControllerState.HOLDING
    ) -> SafetyVerdict:
        verdict = SafetyVerdict.hold(reason, detail)
        stronger = (Reason.E_STOP, Reason.SHUT_DOWN)
        if self._latched is not None and self._latched.reason in stronger and reason not in stronger:
            return self._refuse(self._latched)
        self._latched = verdict
        self._interrupt(verdict)
        if self._motion is not None or state is not ControllerState.HOLDING:
            self._state = state
        return verdict

    def _interrupt(self, verdict: SafetyVerdict) -> None:
        """Stop what is being executed, for the reason of ``verdict``."""
        self._count(verdict)
        self._come_to_rest(verdict)

    def _come_to_rest(self, verdict: SafetyVerdict) -> None:
        self._queue.clear()
        self._homing = None
        self._anchored = False
        self._verdict = verdict
        self._interval_s = None
        if self._motion is not None:
            self._state = ControllerState.HOLDING

    def _refuse(self, verdict: SafetyVerdict) -> SafetyVerdict:
        self._count(verdict)
        return verdict

    def _count(self, verdict: SafetyVerdict) -> None:
        self._counters[verdict.reason] += 1

    @staticmethod
    def _seconds_since(then_ns: int | None, now_ns: int) -> float:
        return float("inf") if then_ns is None else (now_ns - then_ns) * 1e-9

    def _output(self, now_ns: int) -> ControllerOutput:
        motion = self._motion
        at_rest = motion is None or motion.is_at_rest
        return ControllerOutput(
            stamp_ns=now_ns,
            state=self._state,
            owner=self._owner,
            verdict=self._verdict,
            joint_positions=None if motion is None else read_only(motion.position),
            joint_velocities=None if motion is None else read_only(motion.velocity),
            joint_accelerations=None if motion is None else read_only(motion.acceleration),
            gripper_opening=self._gripper,
            tool=None if motion is None else self.chain.forward(motion.position),
            target=self._path.target if self._anchored else None,
            at_rest=at_rest,
            settled=at_rest and not self._queue and (not self._anchored or self._path.settled),
            counters=MappingProxyType(dict(self._counters)),
        )


class _Homing:
    """A straight line in joint space to one pose: one number from 0 to 1 moves all joints together."""

    def __init__(self, name: NamedPose, goal: Float) -> None:
        self.name, self.goal = name, goal
        self.start: Float | None = None
        self._change = np.zeros(len(goal))
        self._share = JointMotion.at_rest(np.zeros(1))
        self._limiter: MotionLimiter | None = None

    def begin(self, start: Float, limits: MotionLimits, period_s: float) -> None:
        """Begin at ``start``, at rest."""
        self.start, self._change = start, self.goal - start
        size = np.maximum(np.abs(self._change), 1e-6)
        bounds = [np.array([np.min(x / size)]) for x in (limits.velocity, limits.acceleration, limits.jerk)]
        share_limits = MotionLimits(np.array([-0.5]), np.array([1.5]), *bounds)
        self._limiter = MotionLimiter(share_limits, period_s)

    def advance(self) -> JointMotion:
        """Return the joints' motion one tick later."""
        assert self._limiter is not None
        assert self.start is not None
        self._share = self._limiter.follow(self._share, JointMotion.at_rest(np.ones(1)))
        share = self._share
        position = self.start + share.position * self._change
        return JointMotion(position, share.velocity * self._change, share.acceleration * self._change)

    @property
    def done(self) -> bool:
        """Whether the pose has been reached and nothing moves."""
        return self._share.is_at_rest and abs(1.0 - float(self._share.position[0])) < 1e-5
