"""Holds a simulation to a multiple of real time."""

from __future__ import annotations

import time

# What a busy machine falls behind by more than this is given up instead of hurried after.
LARGEST_DEBT_S = 0.2
# Even when late, the other threads of the process get a turn.
SHORTEST_SLEEP_S = 1e-4


class RealTimePacer:
    """Sleeps so that ``wait`` returns once a period; counts the time that was given up."""

    def __init__(self) -> None:
        self._due = time.monotonic()
        self.slipped_s = 0.0

    def wait(self, period_s: float) -> None:
        """Sleep until ``period_s`` of the monotonic clock after the previous call was due."""
        self._due += period_s
        now = time.monotonic()
        late = now - self._due
        if late > LARGEST_DEBT_S:
            self.slipped_s += late
            self._due = now
        time.sleep(max(SHORTEST_SLEEP_S, self._due - now))
