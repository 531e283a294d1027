"""A line in time from one commanded target to the next, averaged over a sliding window.

The commanded targets are joined by straight lines in time, each step over its own duration. A window of
``blend_s`` then averages the line: the output is a weighted mean of the targets commanded within the last
``blend_s``. So velocity and acceleration are continuous, each step blends into the next, the path never
overshoots a target or leaves the convex hull of the targets, and without further steps it ends smoothly on
the last target. The price is a delay of half the window.

Here are the time and the window; ``ToolPath`` and ``JointFollower`` know what a target is.
"""

from __future__ import annotations

import numpy as np

from openvla_ros.values.arrays import Float


def blend_weights(count: int) -> Float:
    """Return the averaging window (``count``,), which sums to 1: a trapezoid (two boxes convolved).

    A step in velocity becomes a ramp with bounded jerk (an S-curve).
    """
    short = max(1, round(0.3 * count))
    window = np.convolve(np.ones(count - short + 1), np.ones(short))
    normalised: Float = window / window.sum()
    return normalised


class BlendedLine:
    """The time along the line and its window, one sample a tick; a subclass keeps the samples in a ring."""

    def __init__(self, period_s: float, blend_s: float) -> None:
        self._period_s = period_s
        self._weights = blend_weights(max(1, round(blend_s / period_s)))
        self._newest = 0  # where in the ring the newest sample is
        self._twice = np.concatenate([self._weights, self._weights])  # each rotation of them is a slice
        self._elapsed_s = self._duration_s = 0.0
        self._same = 0
        self.pace = 1.0  # speed of the step in progress, as a share of what was asked for

    @property
    def step_done(self) -> bool:
        """Whether the line has reached its end, so that the next step may begin."""
        return self._elapsed_s >= self._duration_s - 1e-9

    @property
    def remaining_s(self) -> float:
        """Remaining time of the step in progress, seconds at the pace that was asked for."""
        return max(0.0, self._duration_s - self._elapsed_s) * self.pace

    @property
    def settled(self) -> bool:
        """Whether the smoothed path rests at the target."""
        return self._same >= len(self._weights)

    def _rest(self, settled: bool) -> None:
        """Let the line end where it is now; ``settled``: the whole window is there already."""
        self._elapsed_s = self._duration_s = 0.0
        self._same = len(self._weights) if settled else 0

    def _begin(self, duration_s: float) -> None:
        """Start a step; time left over from the previous step counts toward it."""
        left_over = max(0.0, self._elapsed_s - self._duration_s) if self.step_done else 0.0
        self._elapsed_s, self._duration_s = min(left_over, self._period_s), duration_s
        self._same = 0

    def _pass(self) -> float:
        """Let one period pass; returns the share of the step that is over, 0 .. 1."""
        self._elapsed_s += self._period_s
        share = 1.0 if self._duration_s <= 0.0 else min(1.0, self._elapsed_s / self._duration_s)
        self._newest = (self._newest + 1) % len(self._weights)
        self._same = self._same + 1 if share >= 1.0 else 0
        return share

    def _window(self) -> Float:
        """Return the weight of each sample in the ring."""
        count = len(self._weights)
        window: Float = self._twice[count - self._newest - 1 : 2 * count - self._newest - 1]
        return window
