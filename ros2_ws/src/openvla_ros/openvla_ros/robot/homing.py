"""The way to a named pose: a straight line in joint space, all joints moving together.

One number from 0 to 1 is moved by the same rules as a joint, within limits that keep every joint
within its own; so the line keeps the limits at every tick and can be stopped at any.
"""

from __future__ import annotations

import numpy as np

from openvla_ros.arrays import Float
from openvla_ros.robot.braking import JointMotion, MotionLimiter, MotionLimits

# Points of the line that are checked for collisions before it begins.
CHECKED_POINTS = 48


class JointLine:
    """A straight line from rest at ``start`` to rest at ``goal``, (J,) each."""

    def __init__(self, start: Float, goal: Float, limits: MotionLimits, period_s: float) -> None:
        self._start, self._change = start, goal - start
        # A joint that hardly moves sets no limit.
        size = np.maximum(np.abs(self._change), 1e-6)
        bounds = [np.array([np.min(x / size)]) for x in (limits.velocity, limits.acceleration, limits.jerk)]
        # Room on both sides: the share itself has no limits, and never leaves 0 .. 1.
        share_limits = MotionLimits(np.array([-1.0]), np.array([2.0]), bounds[0], bounds[1], bounds[2])
        self._limiter = MotionLimiter(share_limits, period_s, target_stop_s=period_s)
        self._share = JointMotion.at_rest(np.zeros(1))

    def points(self) -> Float:
        """Return joint positions (N, J) spread along the line, both ends included."""
        shares = np.linspace(0.0, 1.0, CHECKED_POINTS)[:, None]
        points: Float = self._start + shares * self._change
        return points

    def advance(self) -> JointMotion:
        """Return the joints' motion one tick later."""
        self._share = self._limiter.follow(self._share, JointMotion.at_rest(np.ones(1)))
        share, change = self._share, self._change
        return JointMotion(
            self._start + share.position * change, share.velocity * change, share.acceleration * change
        )

    @property
    def done(self) -> bool:
        """Whether the goal has been reached."""
        return abs(1.0 - float(self._share.position[0])) < 1e-6
