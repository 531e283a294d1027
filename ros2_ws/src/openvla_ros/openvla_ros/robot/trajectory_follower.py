"""A joint trajectory controller in small: what a trajectory message commands at which time.

Follows the rules of ros2_control's JointTrajectoryController: every joint must be named, in any
order; a start of 0 means now; between points positions run straight, or as a cubic where the points
have velocities; a new trajectory starts from what is being commanded; the last point is held.
Knows nothing of messages.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from openvla_ros.arrays import Float, float_array
from openvla_ros.errors import InvalidValueError


class TrajectoryFollower:
    """The commanded positions of some joints over time, seconds of one clock."""

    def __init__(self, joints: Sequence[str], positions: ArrayLike) -> None:
        """Hold ``positions`` (J,) of ``joints`` until a trajectory comes."""
        self._joints = tuple(joints)
        self._hold(float_array("joint positions", positions, (len(self._joints),)))

    def hold(self, positions: ArrayLike) -> None:
        """Drop the trajectory and hold ``positions`` (J,)."""
        self._hold(float_array("joint positions", positions, (len(self._joints),)))

    def _hold(self, positions: Float) -> None:
        self._times = np.zeros(1)
        self._positions = positions[None]
        self._velocities: Float | None = None

    def follow(
        self,
        names: Sequence[str],
        times_s: ArrayLike,
        positions: ArrayLike,
        velocities: ArrayLike | None,
        start_s: float,
        now_s: float,
    ) -> None:
        """Follow points (T, J) in the order of ``names`` that are due ``times_s`` (T,) after ``start_s``.

        Raises ``InvalidValueError`` on missing or unknown joints, times that do not increase, or
        values that are not finite; what is being followed then goes on.
        """
        if sorted(names) != sorted(self._joints):
            raise InvalidValueError(
                f"the trajectory names joints {list(names)}; this controller moves {list(self._joints)}"
            )
        order = [list(names).index(joint) for joint in self._joints]
        times = start_s + float_array("trajectory times", times_s, (None,))
        if not len(times) or np.any(np.diff(times) <= 0.0):
            raise InvalidValueError(f"trajectory times {np.round(times - start_s, 4).tolist()} must increase")
        shape = (len(times), len(order))
        rows = float_array("trajectory positions", positions, shape)[:, order]
        speeds = None
        if velocities is not None:
            speeds = float_array("trajectory velocities", velocities, shape)[:, order]
        before, slope = self.sample(now_s), self._slope(now_s)
        later = times > now_s  # points that are already past are not gone back to
        if not later.any():
            self._hold(rows[-1])
            return
        self._times = np.concatenate([[now_s], times[later]])
        self._positions = np.vstack([before, rows[later]])
        self._velocities = None if speeds is None else np.vstack([slope, speeds[later]])

    def sample(self, now_s: float) -> Float:
        """Return the commanded positions (J,) at ``now_s``."""
        index = int(np.searchsorted(self._times, now_s, side="right"))
        if index == 0 or index == len(self._times):
            held: Float = self._positions[min(index, len(self._times) - 1)]
            return held
        (t0, t1), (p0, p1) = self._times[index - 1 : index + 1], self._positions[index - 1 : index + 1]
        span = t1 - t0
        u = (now_s - t0) / span
        if self._velocities is None:
            straight: Float = p0 + u * (p1 - p0)
            return straight
        v0, v1 = self._velocities[index - 1 : index + 1] * span
        cubic: Float = (
            (2 * u**3 - 3 * u**2 + 1) * p0
            + (u**3 - 2 * u**2 + u) * v0
            + (3 * u**2 - 2 * u**3) * p1
            + (u**3 - u**2) * v1
        )
        return cubic

    def _slope(self, now_s: float, step_s: float = 1e-4) -> Float:
        slope: Float = (self.sample(now_s + step_s) - self.sample(now_s)) / step_s
        return slope
