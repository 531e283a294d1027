"""Commanded joint targets to joint references: the smoothed path through them, within the velocity limits."""

from __future__ import annotations

import numpy as np

from openvla_ros.profile import RobotProfile
from openvla_ros.robot.motion.blended_line import BlendedLine
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimits
from openvla_ros.robot.motion.tool_follower import LEAD_RAD, PLANNED_SHARE
from openvla_ros.values.arrays import Float


class JointPath(BlendedLine):
    """The smoothed path of the joints, one sample a tick."""

    def __init__(self, period_s: float, blend_s: float, joints: int) -> None:
        super().__init__(period_s, blend_s)
        self._positions = np.zeros((len(self._weights), joints))  # the line's last samples, in a ring
        self._from = self._to = np.zeros(joints)

    def reset(self, position: Float, target: Float) -> None:
        """Rest at ``position`` (J,), and let the line jump to ``target``: the window smooths the jump."""
        self._positions[:] = position
        self._from = self._to = target
        self._rest(settled=False)

    def begin(self, target: Float, duration_s: float, shortest_s: float) -> None:
        """Start the step to ``target`` (J,), which takes ``duration_s`` but no less than ``shortest_s``.

        Time left over from the previous step counts toward it.
        """
        self._from, self._to = self._to, target
        self.pace = duration_s / max(duration_s, shortest_s)
        self._begin(max(duration_s, shortest_s))

    @property
    def target(self) -> Float:
        """The end of the line (J,): where the step in progress leads."""
        return self._to

    def advance(self) -> Float:
        """Return the joint positions (J,) at the next tick."""
        share = self._pass()
        self._positions[self._newest] = self._from + share * (self._to - self._from)
        sample: Float = self._window() @ self._positions
        return sample


class JointFollower:
    """Computes joint references so that the joints follow their commanded targets."""

    def __init__(self, profile: RobotProfile, limits: MotionLimits) -> None:
        joints = len(profile.arm.joints)
        self._period_s = 1.0 / profile.control.rate_hz
        self._lower, self._upper = limits.lower, limits.upper
        self._velocity, self._acceleration = PLANNED_SHARE * limits.velocity, limits.acceleration
        self._reference = JointMotion.at_rest(np.zeros(joints))
        self.path = JointPath(self._period_s, profile.control.blend_s, joints)

    def anchor(self, commanded: Float, measured: Float) -> None:
        """Start with the joints at ``commanded`` (J,) and the target at ``measured`` (J,)."""
        self._reference = JointMotion.at_rest(commanded)
        self.path.reset(commanded, measured)

    def begin(self, target: Float, duration_s: float) -> None:
        """Start the step to ``target`` (J,); it takes longer where the velocity limits ask for that."""
        shortest_s = float(np.max(np.abs(target - self.path.target) / self._velocity))
        self.path.begin(target, duration_s, shortest_s)

    def advance(self, motion: JointMotion) -> JointMotion:
        """Return the reference for the next tick, on a straight line toward the path.

        ``motion`` is the commanded joints' state: the reference waits for them if it is far ahead.
        """
        before = self._reference
        if np.abs(before.position - motion.position).max() > LEAD_RAD:
            self._reference = JointMotion.at_rest(before.position)
            return self._reference
        change = self.path.advance() - before.position
        # Only a path that starts away from the joints is ever faster than planned.
        change = change / max(1.0, float(np.max(np.abs(change) / (self._velocity * self._period_s))))
        position = np.minimum(np.maximum(before.position + change, self._lower), self._upper)
        velocity = (position - before.position) / self._period_s
        acceleration = np.minimum(
            np.maximum((velocity - before.velocity) / self._period_s, -self._acceleration), self._acceleration
        )
        self._reference = JointMotion(position, velocity, acceleration)
        return self._reference
