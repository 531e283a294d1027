"""What endangers a recording, told in time: a clock that is set, and a disk that fills up.

Pure measurements; ``episode_recorder`` turns them into alarms.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from openvla_ros.errors import DatasetError


class ClockWatch:
    """Finds jumps of the clock that stamps messages, against the monotonic clock, and undoes them."""

    def __init__(self, threshold_s: float, simulated: bool) -> None:
        self._threshold_ns, self._simulated = round(threshold_s * 1e9), simulated
        self._offset: int | None = None
        self._correction = 0

    def check(self, now_ns: int, monotonic_ns: int) -> tuple[int, int]:
        """Return (stamp that never goes back, jump in nanoseconds or 0).

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
