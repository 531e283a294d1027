"""The step queue between chunks and the tool path: which step is next, and how long it lasts.

A new chunk replaces the steps that have not started; the step in progress is finished. Steps that the arm
has already executed since the chunk's observation, from an earlier chunk, are skipped, except the last step
of a chunk. If chunks arrive more slowly than their steps last, each step is stretched up to a bound, so
that a policy that is slightly too slow moves the arm slowly instead of jerkily.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from openvla_ros.profile import ControlProfile
from openvla_ros.values.arrays import Float
from openvla_ros.values.time import seconds

# Weight of the newest interval between chunks in their running mean.
INTERVAL_WEIGHT = 0.3
# A step counts as executed when it is finished, or will be within this fraction of its duration.
NEARLY_MADE = 0.25


class StepSchedule:
    """The steps that are still to be executed."""

    def __init__(self, control: ControlProfile, step_s: float) -> None:
        self._streaming = control.mode == "streaming"
        self._nominal_s = step_s
        self._longest_s = control.stretch_max * step_s if self._streaming else step_s
        self._queue: deque[Float] = deque()
        self._line_s = 0.0
        # The line time at each control period, as far back as an observation may be.
        remembered = math.ceil(control.chunk_max_age_s * control.rate_hz) + 2
        self._history: deque[tuple[int, float]] = deque(maxlen=remembered)
        self._interval_s: float | None = None
        self._taken_ns: int | None = None
        self.step_s = step_s  # how long one step lasts now
        self.stamp_ns: int | None = None  # of the observation that the newest steps were computed from

    def __len__(self) -> int:
        return len(self._queue)

    def take(self, actions: Float, stamp_ns: int, now_ns: int, remaining_s: float, moving: bool) -> int:
        """Queue ``actions`` (T, D) from an observation at ``stamp_ns``; returns how many were skipped.

        ``remaining_s`` is the remaining time of the step in progress; ``moving`` whether earlier chunks are
        being executed.
        """
        if not moving:
            self.clear()
        elif self._taken_ns is not None:
            self._note_interval(seconds(now_ns - self._taken_ns))
        self._taken_ns = now_ns
        skipped = self.past(len(actions), stamp_ns, remaining_s) if moving else 0
        self._queue = deque(actions[skipped:])
        self.stamp_ns = stamp_ns
        if self._interval_s is not None:
            self.step_s = float(
                np.clip(self._interval_s / len(self._queue), self._nominal_s, self._longest_s)
            )
        return skipped

    def past(self, count: int, stamp_ns: int, remaining_s: float) -> int:
        """Return how many of ``count`` steps of an observation at ``stamp_ns`` ``take`` skips in motion."""
        return self._steps_made(count, stamp_ns, remaining_s) if self._streaming else 0

    def next(self) -> Float | None:
        """Return the next action (D,), or None if there is none."""
        return self._queue.popleft() if self._queue else None

    def note(self, now_ns: int, moved_s: float) -> None:
        """Note that by ``now_ns`` steps were executed for ``moved_s`` more seconds."""
        self._line_s += moved_s
        self._history.append((now_ns, self._line_s))

    def clear(self) -> None:
        """Drop the steps that have not started, and the estimated rate of chunks."""
        self._queue.clear()
        self._interval_s = self._taken_ns = self.stamp_ns = None
        self.step_s = self._nominal_s

    def forget_time(self) -> None:
        """Forget every stamp: the clock went back."""
        self.clear()
        self._history.clear()

    def _note_interval(self, interval_s: float) -> None:
        known = interval_s if self._interval_s is None else self._interval_s
        self._interval_s = known + INTERVAL_WEIGHT * (interval_s - known)

    def _steps_made(self, count: int, stamp_ns: int, remaining_s: float) -> int:
        """Return how many of ``count`` steps the arm has executed, or started, since ``stamp_ns``."""
        then_s = next((line_s for ns, line_s in reversed(self._history) if ns <= stamp_ns), None)
        if then_s is None:
            return 0
        made_s = self._line_s - then_s + remaining_s
        return min(int(made_s / self.step_s + NEARLY_MADE), count - 1)
