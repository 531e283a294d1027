"""The way that the tool has come: the newest points, so that a viewer draws a line of limited length."""

from __future__ import annotations

from collections import deque

import numpy as np

from openvla_ros.values.arrays import Float
from openvla_ros.values.time import NS_PER_S

LENGTH_S = 10.0
SPACING_S = 0.05  # between two points
PERIOD_S = 0.2  # between two lines


class Pace:
    """Lets at most one pass in each period, by stamps; a clock that was set starts anew."""

    def __init__(self, period_s: float) -> None:
        self._period_ns = round(period_s * NS_PER_S)
        self._last_ns: int | None = None

    def due(self, stamp_ns: int) -> bool:
        """Return whether the period since the last one that passed is over at ``stamp_ns``."""
        if self._last_ns is not None and 0 <= stamp_ns - self._last_ns < self._period_ns:
            return False
        self._last_ns = stamp_ns
        return True


class Trail:
    """The points of the last seconds."""

    def __init__(self) -> None:
        self._points: deque[tuple[int, Float]] = deque()
        self._spacing, self._lines = Pace(SPACING_S), Pace(PERIOD_S)

    def add(self, stamp_ns: int, position: Float) -> Float | None:
        """Add ``position`` (3,) m; return the points (N, 3) to draw, or None while the last line is new."""
        if self._points and stamp_ns < self._points[-1][0]:
            self._points.clear()  # the clock was set
        if self._spacing.due(stamp_ns):
            self._points.append((stamp_ns, position))
        while stamp_ns - self._points[0][0] > LENGTH_S * NS_PER_S:
            self._points.popleft()
        if len(self._points) < 2 or not self._lines.due(stamp_ns):
            return None
        return np.array([point for _, point in self._points])
