"""Joint positions over time through waypoints, interpolated as in ros2_control.

Two waypoints with velocities and accelerations are joined by a quintic, two with velocities by a cubic,
otherwise by a straight line. The last waypoint is held. Times are seconds on one clock, relative to a
recent epoch: in seconds since 1970, a float has no nanosecond resolution.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimits
from openvla_ros.values.arrays import Float

# Speeds and accelerations that differ by less at a waypoint are one: what rounding leaves.
SAME_RAD, SAME_RAD_S, SAME_RAD_S2 = 1e-10, 1e-8, 1e-5


Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Waypoint:
    """Joint positions, velocities and accelerations at a time; (J,) rad, rad/s, rad/s²."""

    time_s: float
    position: Float
    velocity: Float | None = None
    acceleration: Float | None = None


class Segment:
    """One polynomial for each joint between two waypoints."""

    def __init__(self, start: Waypoint, end: Waypoint) -> None:
        self.start_s, self.end_s = start.time_s, end.time_s
        self.coefficients = _coefficients(start, end)  # (K, J), of rising powers of the time since the start

    def state(self, time_s: float) -> JointMotion:
        """Return the motion at ``time_s``."""
        c, t = self.coefficients, time_s - self.start_s
        position, velocity, acceleration = c[-1], np.zeros_like(c[0]), np.zeros_like(c[0])
        for row in c[-2::-1]:
            acceleration = acceleration * t + 2.0 * velocity
            velocity = velocity * t + position
            position = position * t + row
        return JointMotion(position, velocity, acceleration)

    def keeps(self, limits: MotionLimits, begin_s: float, end_s: float) -> Flags:
        """Return for each joint (J,) whether this stays within its rate limits between two times.

        Exact for lines and cubics; quintics count as exceeding them.
        """
        if len(self.coefficients) > 4:
            return np.zeros(self.coefficients.shape[1], dtype=bool)
        a, b = self.state(begin_s), self.state(end_s)
        jerk = 6.0 * self.coefficients[3] if len(self.coefficients) > 3 else np.zeros_like(a.position)
        with np.errstate(divide="ignore", invalid="ignore"):
            peak = a.velocity - a.acceleration**2 / (2.0 * jerk)  # where the acceleration changes its sign
        turns = a.acceleration * b.acceleration < 0.0
        speed = np.maximum(np.abs(a.velocity), np.abs(b.velocity))
        speed = np.where(turns, np.maximum(speed, np.abs(peak)), speed)
        steepest = np.maximum(np.abs(a.acceleration), np.abs(b.acceleration))
        kept: Flags = (
            (np.abs(jerk) <= limits.jerk) & (steepest <= limits.acceleration) & (speed <= limits.velocity)
        )
        return kept


class JointPath:
    """Waypoints in order of time, and the segments between them."""

    def __init__(self, waypoints: Sequence[Waypoint]) -> None:
        """Create a path through one or more waypoints with increasing times."""
        self.waypoints = tuple(waypoints)
        self._times = [waypoint.time_s for waypoint in self.waypoints]
        self._segments: dict[int, Segment] = {}

    @property
    def end_s(self) -> float:
        """When the last waypoint is due."""
        return self._times[-1]

    def state(self, time_s: float) -> JointMotion:
        """Return the motion at ``time_s``: at rest before the first waypoint and after the last."""
        index = bisect_right(self._times, time_s)
        if index == 0 or index == len(self._times):
            return JointMotion.at_rest(self.waypoints[max(0, index - 1)].position)
        return self.segment(index).state(time_s)

    def segment(self, index: int) -> Segment:
        """Return the segment from the previous waypoint to waypoint ``index``."""
        found = self._segments.get(index)
        if found is None:
            found = Segment(self.waypoints[index - 1], self.waypoints[index])
            self._segments[index] = found
        return found

    def joined_to(self, later: JointPath, since_s: float) -> JointPath:
        """Return this path from ``since_s`` to the start of ``later``, followed by ``later``."""
        first = max(0, bisect_right(self._times, since_s) - 1)
        count = bisect_right(self._times, later._times[0] - 1e-9)
        return JointPath((*self.waypoints[first:count], *later.waypoints))

    def keeps(self, limits: MotionLimits, begin_s: float, end_s: float) -> Flags:
        """Return for each joint (J,) whether it stays within its rate limits between two times.

        Speed and acceleration must be continuous between segments.
        """
        kept = np.ones(self.waypoints[0].position.shape, dtype=bool)
        first, last = bisect_right(self._times, begin_s), bisect_right(self._times, end_s - 1e-12)
        before: JointMotion | None = None
        for index in range(first, last + 1):
            if index == 0 or index == len(self._times):
                after = at_end = self.state(begin_s if index == 0 else end_s)
            else:
                segment = self.segment(index)
                start, end = max(begin_s, segment.start_s), min(end_s, segment.end_s)
                after, at_end = segment.state(start), segment.state(end)
                kept &= segment.keeps(limits, start, end)
            if before is not None:
                kept &= same_motion(before, after)
            before = at_end
        assert before is not None
        kept &= same_motion(before, self.state(end_s))
        return kept


def same_motion(one: JointMotion, other: JointMotion) -> Flags:
    """Return for each joint (J,) whether two motions are equal up to rounding."""
    same: Flags = (
        (np.abs(one.position - other.position) < SAME_RAD)
        & (np.abs(one.velocity - other.velocity) < SAME_RAD_S)
        & (np.abs(one.acceleration - other.acceleration) < SAME_RAD_S2)
    )
    return same


def _coefficients(start: Waypoint, end: Waypoint) -> Float:
    span, p0, p1 = end.time_s - start.time_s, start.position, end.position
    v0, v1, a0, a1 = start.velocity, end.velocity, start.acceleration, end.acceleration
    way = p1 - p0
    if v0 is None or v1 is None:
        return np.array([p0, way / span])
    # Hermite's conditions at both ends, solved for the powers that the start leaves free.
    if a0 is None or a1 is None:
        rest, gain = (way / span - v0) / span, (v1 - v0) / span
        return np.array([p0, v0, 3.0 * rest - gain, (gain - 2.0 * rest) / span])
    rest = (way - (v0 + 0.5 * a0 * span) * span) / span**3
    gain, change = (v1 - v0 - a0 * span) / span**2, (a1 - a0) / span
    return np.array(
        [
            p0,
            v0,
            0.5 * a0,
            10.0 * rest - 4.0 * gain + 0.5 * change,
            (-15.0 * rest + 7.0 * gain - change) / span,
            (6.0 * rest - 3.0 * gain + 0.5 * change) / span**2,
        ]
    )
