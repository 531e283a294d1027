"""What endangers a recording, told in time: a clock that is set, and a disk that fills up.

Pure measurements; ``episode_recorder`` turns them into alarms.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from openvla_ros.errors import DatasetError

_READINGS = 3  # of two clocks at one moment, until nothing came between them


class ClockWatch:
    """Finds jumps of ``clock`` (nanoseconds) against the monotonic clock, and undoes them."""

    def __init__(self, clock: Callable[[], int], threshold_s: float, simulated: bool) -> None:
        self._clock = clock
        self._threshold_ns, self._simulated = round(threshold_s * 1e9), simulated
        self._offset: int | None = None
        self._correction = 0

    def read(self) -> tuple[int, int]:
        """Return (stamp of now that never goes back, jump since the last reading in nanoseconds or 0).

        A process that is held up between two clocks would see a jump that is none, so they are read
        again then; a process that is held up every time leaves the judgement to the next call.
        """
        now_ns = 0
        for _ in range(_READINGS):
            before_ns = time.monotonic_ns()
            now_ns = self._clock()
            after_ns = time.monotonic_ns()
            if 2 * (after_ns - before_ns) < self._threshold_ns:
                return self.check(now_ns, after_ns)
        return now_ns + self._correction, 0

    def check(self, now_ns: int, monotonic_ns: int) -> tuple[int, int]:
        """Return the same for two clocks that were read at one moment.

        A simulated clock may run at any rate, so of that only steps backwards count.
        """
        offset = now_ns - monotonic_ns
        jump = 0 if self._offset is None else offset - self._offset
        self._offset = offset
        if abs(jump) < self._threshold_ns or (self._simulated and jump > 0):
            return now_ns + self._correction, 0
        self._correction -= jump
        return now_ns + self._correction, jump


class WriteRate:
    """Bytes a second since it was made."""

    def __init__(self) -> None:
        self._begun, self._bytes = time.monotonic(), 0

    def add(self, count: int) -> None:
        """Note that ``count`` bytes were written."""
        self._bytes += count

    def bytes_per_s(self) -> float:
        """Return the mean rate; the first second counts as a whole one."""
        return self._bytes / max(time.monotonic() - self._begun, 1.0)


def free_bytes(folder: Path) -> int:
    """Return the bytes that this user may still write below ``folder``."""
    try:
        status = os.statvfs(folder)
    except OSError as error:
        raise DatasetError(f"cannot look at {folder}: {error.strerror}") from error
    return status.f_bavail * status.f_frsize
