"""The way to a named pose: a straight line in joint space, all joints moving together.

One number from 0 to 1 is moved by the same rules as a joint, within limits that keep every joint
within its own; so the line keeps the limits at every tick and can be stopped at any.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimiter, MotionLimits
from openvla_ros.robot.safety.motion import MotionChecks
from openvla_ros.values.arrays import Float
from openvla_ros.values.verdict import SafetyVerdict

NamedPose = Literal["home", "neutral", "park"]
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

    def advance(self, step_s: float | None = None) -> JointMotion:
        """Return the joints' motion one tick later; ``step_s`` as in ``MotionLimiter.follow``."""
        self._share = self._limiter.follow(self._share, JointMotion.at_rest(np.ones(1)), step_s)
        share, change = self._share, self._change
        return JointMotion(
            self._start + share.position * change, share.velocity * change, share.acceleration * change
        )

    @property
    def done(self) -> bool:
        """Whether the goal has been reached."""
        return abs(1.0 - float(self._share.position[0])) < 1e-6


class WayPlanner:
    """Finds the lines that lead to a named pose of the profile without touching anything."""

    def __init__(self, profile: RobotProfile, limits: MotionLimits, checks: MotionChecks) -> None:
        self._arm, self._checks = profile.arm, checks
        self._limits = limits.scaled(profile.control.homing_share)
        self._period_s = 1.0 / profile.control.rate_hz

    def plan(self, here: Float, name: NamedPose) -> list[JointLine] | SafetyVerdict:
        """Return the way from rest at ``here`` (J,): one line, or two by way of home where one would collide.

        Where both would, returns the hold that names what is in the way of the first.
        """
        home, goal = np.array(self._arm.home), np.array(getattr(self._arm, checked_pose(name)))
        verdicts = []
        for stations in ([here, goal], [here, home, goal]):
            lines = [JointLine(start, end, self._limits, self._period_s) for start, end in pairwise(stations)]
            checks = [self._checks.check_line(line.points()) for line in lines]
            refused = next((verdict for verdict in checks if not verdict.commands), None)
            if refused is None:
                return lines
            verdicts.append(refused)
        return verdicts[0]


def checked_pose(name: str) -> NamedPose:
    """Return ``name``; raises ``InvalidValueError`` listing the poses there are."""
    for known in get_args(NamedPose):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise InvalidValueError(f"pose is {name!r}; it must be one of {', '.join(get_args(NamedPose))}")
