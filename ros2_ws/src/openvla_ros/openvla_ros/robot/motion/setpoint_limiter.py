"""The last stage before a driver: each setpoint is one period within the limits from the last one sent.

Wall time never turns into distance. Whatever the path says that is to be followed, and however late it
came, the next setpoint is what the arm can do in one period after the last setpoint, on its way to the
path. A path that keeps the limits is handed through as it is.
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
    """Follows paths of J joints, one setpoint a period."""

    def __init__(self, limits: MotionLimits, period_s: float) -> None:
        wide = limits.scaled(1.0 + ROOM)
        self._limits = MotionLimits(
            limits.lower - ROOM_RAD, limits.upper + ROOM_RAD, wide.velocity, wide.acceleration, wide.jerk
        )
        self._limiter = MotionLimiter(self._limits, period_s, target_stop_s=None)
        self.period_s = period_s

    def follow(self, sent: JointMotion, path: JointPath, begin_s: float, end_s: float) -> JointMotion:
        """Return the motion one period after ``sent``, where ``path`` goes on from one time to another."""
        if abs(end_s - begin_s - self.period_s) > 1e-9:
            return self.approach(sent, path.state(end_s))
        along = same_motion(sent, path.state(begin_s)) & path.keeps(self._limits, begin_s, end_s)
        return self._limiter.track(sent, path.state(end_s), along)

    def approach(self, sent: JointMotion, target: JointMotion) -> JointMotion:
        """Return the motion one period after ``sent``, on the way to ``target`` as it will be then."""
        return self._limiter.track(sent, target, np.zeros(len(sent.position), dtype=bool))

    def stop(self, sent: JointMotion) -> JointMotion:
        """Return the motion one period after ``sent`` on the fastest stop."""
        return self._limiter.stop(sent)
