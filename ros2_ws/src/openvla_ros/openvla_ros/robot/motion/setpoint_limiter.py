"""The last stage before a driver: each setpoint is reachable in one period, within the limits, from the last.

Elapsed time never turns into distance. Whatever the path, and however late it arrived, the next setpoint
is as far as the arm can move in one period from the last setpoint, on the way to the path. A path within
the limits is passed through unchanged.
"""

from __future__ import annotations

import numpy as np

from openvla_ros.robot.motion.joint_path import JointPath, same_motion
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimiter, MotionLimits

# The limits are kept with this room: what positions lose on their way through a message, magnified by
# the third difference. A path at its limits must not count as one beyond them.
ROOM = 1e-5
ROOM_RAD = 1e-9


class SetpointLimiter:
    """Follows paths of J joints, one setpoint per period."""

    def __init__(self, limits: MotionLimits, period_s: float) -> None:
        wide = limits.scaled(1.0 + ROOM)
        self._limits = MotionLimits(
            limits.lower - ROOM_RAD, limits.upper + ROOM_RAD, wide.velocity, wide.acceleration, wide.jerk
        )
        self._limiter = MotionLimiter(self._limits, period_s, target_stop_s=None)
        self.period_s = period_s

    def follow(self, sent: JointMotion, path: JointPath, begin_s: float, end_s: float) -> JointMotion:
        """Return the motion one period after ``sent``, following ``path`` from one time to another."""
        if abs(end_s - begin_s - self.period_s) > 1e-9:
            return self.approach(sent, path.state(end_s))
        along = same_motion(sent, path.state(begin_s)) & path.keeps(self._limits, begin_s, end_s)
        return self._limiter.track(sent, path.state(end_s), along)

    def approach(self, sent: JointMotion, target: JointMotion) -> JointMotion:
        """Return the motion one period after ``sent``, on the way to ``target`` (its state at that time)."""
        return self._limiter.track(sent, target, np.zeros(len(sent.position), dtype=bool))

    def stop(self, sent: JointMotion) -> JointMotion:
        """Return the motion one period after ``sent`` on the fastest stop."""
        return self._limiter.stop(sent)
