"""The room around a checked configuration: how far the joints may move from it before a check could fail.

The checks of a motion cost more than everything else in a control period, and nearly always find that all
is well by centimetres. What they measure (distances between links, heights above the table, how deep the
tool is inside the workspace, its tilt) cannot change faster than the joints move times a lever arm. So from
margins c at joints q, for any other joints p, with the lever arms L (M, J) of each joint for each margin:

    c(p) >= c(q) - L |p - q|

While the right side stays above 0, with a reserve for rounding, each check of p would find a margin above 0,
and a check whose margins are all above 0 passes: it need not be computed. Otherwise it is computed in full.
So the outcome is always that of the full checks; nothing is estimated where it could matter.
"""

from __future__ import annotations

import numpy as np

from openvla_ros.values.arrays import Float


class CheckedRoom:
    """Where the joints may be without any margin falling to 0, by the margins at those checked last."""

    def __init__(self, lever_arms: Float, reserve: float) -> None:
        """Take the lever arms of M margins; nothing is checked yet.

        Args:
            lever_arms: (M, J) by how much each margin can change for each radian of each joint. If one is
                infinite, nothing is ever contained.
            reserve: How much a margin may be off, in its own unit.
        """
        self._lever_arms = np.ascontiguousarray(lever_arms.T)  # (J, M)
        self._reserve = reserve
        self._bounded = bool(np.isfinite(lever_arms).all())
        self._at: Float | None = None  # (J,) the joints checked last
        self._room: Float = np.zeros(len(lever_arms))  # (M,) by how much each margin may fall from there

    def contains(self, points: Float) -> bool:
        """Return whether no margin can be below its reserve at any of ``points`` (K, J), by what is known.

        False where a joint is NaN.
        """
        if self._at is None:
            return False
        moved = np.abs(points - self._at).max(axis=0)
        return bool((moved @ self._lever_arms < self._room).all())

    def note(self, point: Float, margins: Float) -> None:
        """Note that at the joints ``point`` (J,) the M margins are ``margins``."""
        if self._bounded:
            self._at, self._room = point.copy(), margins - self._reserve
