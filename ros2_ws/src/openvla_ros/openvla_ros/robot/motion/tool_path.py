"""The rate bridge: turns steps at 3 to 15 Hz into a smooth tool path at the control rate.

The commanded targets are joined by straight lines in time, each step over its own duration. A window of
``blend_s`` then averages the line: the output is a weighted mean of the targets commanded within the last
``blend_s``. So velocity and acceleration are continuous, each step blends into the next, the path never
overshoots a target or leaves the convex hull of the targets, and without further steps it ends smoothly on
the last target. The price is a delay of half the window.

Knows nothing of chunks, clocks or limits: the controller decides when which step begins.
"""

from __future__ import annotations

import numpy as np

from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose, transform_matrix_to_quaternion, transform_quaternion_to_matrix


def blend_weights(count: int) -> Float:
    """Return the averaging window (``count``,), which sums to 1: a trapezoid (two boxes convolved).

    A step in velocity becomes a ramp with bounded jerk (an S-curve).
    """
    short = max(1, round(0.3 * count))
    window = np.convolve(np.ones(count - short + 1), np.ones(short))
    normalised: Float = window / window.sum()
    return normalised


class ToolPath:
    """The smoothed path of the tool point, one sample a tick."""

    def __init__(self, period_s: float, blend_s: float) -> None:
        self._period_s = period_s
        self._weights = blend_weights(max(1, round(blend_s / period_s)))
        count = len(self._weights)
        self._positions = np.zeros((count, 3))  # the line's last samples, in a ring
        self._quaternions = np.tile([0.0, 0.0, 0.0, 1.0], (count, 1))
        self._newest = 0
        self._twice = np.concatenate([self._weights, self._weights])  # each rotation of them is a slice
        self._from = self._to = Pose.identity()
        self._from_q = self._to_q = self._quaternions[0]
        self._elapsed_s = self._duration_s = 0.0
        self._same = 0

    def reset(self, pose: Pose) -> None:
        """Reset the path to rest at ``pose``."""
        self.jump(pose)
        self._positions[:] = pose.position
        self._quaternions[:] = self._to_q
        self._same = len(self._weights)

    def jump(self, target: Pose) -> None:
        """Jump the line to ``target``; the window turns the jump into a smooth motion."""
        self._from = self._to = target
        self._from_q = self._to_q = transform_matrix_to_quaternion(target.rotation)
        self._elapsed_s = self._duration_s = 0.0
        self._same = 0

    def begin(self, target: Pose, duration_s: float) -> None:
        """Start the step to ``target``; time left over from the previous step counts toward it."""
        left_over = max(0.0, self._elapsed_s - self._duration_s) if self.step_done else 0.0
        self._from, self._from_q = self._to, self._to_q
        self._to, self._to_q = target, transform_matrix_to_quaternion(target.rotation)
        if self._to_q @ self._from_q < 0.0:
            self._to_q = -self._to_q
        self._elapsed_s, self._duration_s = min(left_over, self._period_s), duration_s
        self._same = 0

    @property
    def target(self) -> Pose:
        """The end of the line: where the step in progress leads."""
        return self._to

    @property
    def step_done(self) -> bool:
        """Whether the line has reached its end, so that the next step may begin."""
        return self._elapsed_s >= self._duration_s - 1e-9

    @property
    def remaining_s(self) -> float:
        """Remaining time of the step in progress, seconds."""
        return max(0.0, self._duration_s - self._elapsed_s)

    @property
    def settled(self) -> bool:
        """Whether the smoothed path rests at the target."""
        return self._same >= len(self._weights)

    def advance(self) -> Float:
        """Return the tool pose (4, 4) at the next tick."""
        self._elapsed_s += self._period_s
        share = 1.0 if self._duration_s <= 0.0 else min(1.0, self._elapsed_s / self._duration_s)
        count = len(self._weights)
        self._newest = (self._newest + 1) % count
        self._positions[self._newest] = self._from.position + share * (
            self._to.position - self._from.position
        )
        quaternion = self._line_quaternion(share)
        # One sign for all samples, or their mean would pass through zero.
        if quaternion @ self._quaternions[self._newest - 1] < 0.0:
            quaternion = -quaternion
        self._quaternions[self._newest] = quaternion
        self._same = self._same + 1 if share >= 1.0 else 0
        weights = self._twice[count - self._newest - 1 : 2 * count - self._newest - 1]
        pose = np.eye(4)
        pose[:3, 3] = weights @ self._positions
        pose[:3, :3] = transform_quaternion_to_matrix(weights @ self._quaternions)
        return pose

    def _line_quaternion(self, share: float) -> Float:
        cosine = min(1.0, float(self._from_q @ self._to_q))
        angle = np.arccos(cosine)
        if angle < 1e-6:
            return np.array(self._to_q)
        start, end = np.sin((1.0 - share) * angle), np.sin(share * angle)
        between: Float = (start * self._from_q + end * self._to_q) / np.sin(angle)
        return between
