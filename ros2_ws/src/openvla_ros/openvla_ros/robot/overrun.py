"""Going on after the control loop stood still: its process was suspended, or the machine was too busy.

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
from openvla_ros.robot.safety.state import RobotState

# An arm that has come to rest is this near to its command, gravity included; farther off, something
# else has moved it meanwhile.
REST_TOLERANCE_RAD = 0.05


@dataclass(frozen=True, eq=False)
class LastCommand:
    """The last command before the loop stood still."""

    motion: JointMotion
    stamp_ns: int


class Resumption:
    """From where commands go on when the loop runs again."""

    def __init__(self, profile: RobotProfile, limiter: MotionLimiter) -> None:
        backend = profile.arm_backend
        self._limiter = limiter
        self._brakes_by_itself = backend.brakes_by_itself
        self._ahead_s = backend.lookahead_s if backend.brakes_by_itself else 0.0
        self._tracking_rad = profile.limits.tracking_error_rad
        self._moment_s = profile.state.max_age_s

    def motion(self, last: LastCommand, state: RobotState, now_ns: int) -> JointMotion:
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
