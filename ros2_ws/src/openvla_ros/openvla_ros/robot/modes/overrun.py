"""Resuming after the control loop stalled: its process was suspended, or the machine was too busy.

Meanwhile the arm did what its own software makes of the last command. The next command starts from
there: from the motion that the robot's side has carried out by itself, if the arm is measured to be
about where that leads, else from the measured motion. Either way the arm brakes within its limits, and
nothing is commanded before the arm has been seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openvla_ros.profile import RobotProfile
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimiter
from openvla_ros.robot.safety.robot_state import RobotState
from openvla_ros.values.verdict import Reason, SafetyVerdict

# An arm that has come to rest is this near to its command, gravity included; farther off, something
# else has moved it.
REST_TOLERANCE_RAD = 0.05
UNSEEN = SafetyVerdict.hold(Reason.OVERRUN, "the arm has not been seen since the control loop stalled")


@dataclass(frozen=True, eq=False)
class LastCommand:
    """The last command before the loop stalled."""

    motion: JointMotion
    stamp_ns: int


class Overrun:
    """The time from a stall of the control loop until the arm has been seen again."""

    def __init__(self, profile: RobotProfile, limiter: MotionLimiter) -> None:
        backend = profile.arm_backend
        self._limiter = limiter
        self._brakes_by_itself = backend.brakes_by_itself
        self._ahead_s = backend.lookahead_s if backend.brakes_by_itself else 0.0
        self._tracking_rad = profile.limits.tracking_error_rad
        self._moment_s = profile.state.max_age_s
        self._last: LastCommand | None = None

    @property
    def lasts(self) -> bool:
        """Whether the loop stalled and the arm has not been seen since: nothing is commanded."""
        return self._last is not None

    def begin(self, motion: JointMotion, stamp_ns: int, stood_s: float, stall: str) -> SafetyVerdict:
        """Begin after the command of ``motion`` at ``stamp_ns``; ``stall`` says why, where that is known.

        Returns a hold if the stall of ``stood_s`` seconds was too long to continue.
        """
        self._last = LastCommand(motion, stamp_ns)
        text = f"the control loop stalled for {stood_s:.3f} s" + (f": {stall}" if stall else "")
        if stood_s > self._moment_s:
            return SafetyVerdict.hold(Reason.OVERRUN, text)
        return SafetyVerdict.command(Reason.OVERRUN, text)

    def resume(self, robot: RobotState | None, now_ns: int, stamp_ns: int) -> JointMotion | None:
        """End with the motion to command at ``stamp_ns``; None if ``robot`` does not show the arm by now."""
        last = self._last
        assert last is not None
        if robot is None or (now_ns - robot.stamp_ns) * 1e-9 > self._moment_s:
            return None
        motion = self._motion(last, robot, stamp_ns)
        self._last = None
        return motion

    def forget(self) -> None:
        """End without a motion: the clock went back, and the last command means nothing now."""
        self._last = None

    def _motion(self, last: LastCommand, state: RobotState, now_ns: int) -> JointMotion:
        """Return the motion to command at ``now_ns`` for an arm that was last seen at ``state``."""
        if self._brakes_by_itself and self._is_expected(last, state):
            return self._limiter.stop_after(last.motion, (now_ns - last.stamp_ns) * 1e-9)
        limit, still = self._limiter.limits.velocity, np.zeros(len(state.positions))
        velocity = still if state.velocities is None else np.clip(state.velocities, -limit, limit)
        measured = JointMotion(np.array(state.positions), velocity, still)
        return self._limiter.stop_after(measured, (now_ns - state.stamp_ns) * 1e-9 + self._ahead_s)

    def _is_expected(self, last: LastCommand, state: RobotState) -> bool:
        """Whether the arm is seen about where the stop of the last command leads."""
        since_s = (state.stamp_ns - last.stamp_ns) * 1e-9 - self._ahead_s
        expected = self._limiter.stop_after(last.motion, max(0.0, since_s))
        rests = expected.is_at_rest and since_s > self._moment_s
        off_rad = float(np.abs(state.positions - expected.position).max())
        return off_rad <= (REST_TOLERANCE_RAD if rests else self._tracking_rad)
