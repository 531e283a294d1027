"""Paces a simulation at a multiple of real time, and slows it down for a controller that is behind."""

from __future__ import annotations

import threading
import time

# If the simulation falls further behind than this, drop the backlog.
LARGEST_DEBT_S = 0.2
# Even when late, the other threads of the process get a turn.
SHORTEST_SLEEP_S = 1e-4
# Stop waiting for a controller silent for this long (wall time).
LONGEST_SILENCE_S = 1.0


class RealTimePacer:
    """Sleeps so that ``wait`` returns once per period; counts the dropped backlog."""

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


class LockStep:
    """Keeps simulated time within ``slack_s`` of the newest command, while there are commands.

    A busy machine then slows the simulation down without changing its outcome. It does not wait before the
    first command or after a silence of ``LONGEST_SILENCE_S``: if the controller was killed, the robot must
    keep running.
    """

    def __init__(self, slack_s: float) -> None:
        self._slack_s = slack_s
        self._changed = threading.Condition()
        self._commanded_s: float | None = None  # simulated time; None while not waiting for anyone

    def commanded(self, elapsed_s: float) -> None:
        """Note that a command arrived at simulated time ``elapsed_s``."""
        with self._changed:
            self._commanded_s = elapsed_s
            self._changed.notify()

    def wait(self, elapsed_s: float) -> None:
        """Wait until simulated time may pass ``elapsed_s``."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._may_pass(elapsed_s), LONGEST_SILENCE_S):
                self._commanded_s = None

    def _may_pass(self, elapsed_s: float) -> bool:
        return self._commanded_s is None or elapsed_s - self._commanded_s < self._slack_s
