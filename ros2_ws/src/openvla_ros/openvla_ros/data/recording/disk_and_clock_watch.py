"""Early warnings for a recording: clock jumps, and a disk that fills up.

Knows nothing of messages; ``episode_recorder`` calls this while it writes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from openvla_ros.data.recording.alarms import Alarms
from openvla_ros.errors import DatasetError
from openvla_ros.values.time import nanoseconds

_READINGS = 3  # of two clocks at one moment, until nothing came between them


class ClockWatch:
    """Detects jumps of ``clock`` (nanoseconds) relative to the monotonic clock, and corrects for them."""

    def __init__(self, clock: Callable[[], int], threshold_s: float, simulated: bool) -> None:
        self._clock = clock
        self._threshold_ns, self._simulated = nanoseconds(threshold_s), simulated
        self._offset: int | None = None
        self._correction = 0

    def read(self) -> tuple[int, int]:
        """Return (stamp of now that never goes back, jump since the last reading in nanoseconds or 0).

        A process that is preempted between reading the two clocks would see a false jump, so they are then
        read again; if that happens every time, the decision is left to the next call.
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
        """Return the same for two clocks that were read at the same moment.

        A simulated clock may run at any rate, so only backward steps of it count.
        """
        offset = now_ns - monotonic_ns
        jump = 0 if self._offset is None else offset - self._offset
        self._offset = offset
        if abs(jump) < self._threshold_ns or (self._simulated and jump > 0):
            return now_ns + self._correction, 0
        self._correction -= jump
        return now_ns + self._correction, jump


class DiskWatch:
    """Warns in time when ``folder`` fills up or can no longer be written.

    ``reserve_bytes`` are kept free; the warning comes ``warn_s`` seconds before they are reached.
    """

    def __init__(self, folder: Path, reserve_bytes: int, warn_s: float, alarms: Alarms) -> None:
        self._folder, self._alarms = folder, alarms
        self._reserve_bytes, self._warn_s = reserve_bytes, warn_s
        self._begun_s, self._bytes = time.monotonic(), 0

    def begin(self) -> None:
        """Measure the write rate from now on; raises ``DatasetError`` if there is too little space."""
        free, needed = free_bytes(self._folder), 2 * self._reserve_bytes
        if free < needed:
            raise DatasetError(
                f"{self._folder} has {free / 1e6:.0f} MB free; recording needs at least {needed / 1e6:.0f} MB"
            )
        self._begun_s, self._bytes = time.monotonic(), 0

    def wrote(self, count: int) -> None:
        """Note that ``count`` bytes were written."""
        self._bytes += count

    def is_full(self) -> bool:
        """Return whether only the reserve is left; raises an alarm then, and another one shortly before."""
        try:
            left = free_bytes(self._folder) - self._reserve_bytes
        except DatasetError as error:
            self._alarms.set_off("folder", "error", str(error))
            return False
        rate = self._bytes / max(time.monotonic() - self._begun_s, 1.0)  # bytes a second
        if left < 0:
            text = f"{self._folder} is full: stop this episode; everything up to now is stored"
            self._alarms.set_off("disk full", "error", text)
        elif left < self._warn_s * rate:
            text = f"{self._folder} will be full in {left / rate:.0f} s at this rate"
            self._alarms.set_off("disk space", "warn", text)
        return left < 0

    def check_access(self, episode: Path) -> None:
        """Raise an alarm while ``episode`` is missing, or could not be finished in its folder."""
        if episode.is_dir() and os.access(self._folder, os.W_OK | os.X_OK):
            self._alarms.end("folder")
            return
        text = f"{self._folder} is no longer writable: the episode cannot be finished"
        self._alarms.set_off("folder", "error", text)


def free_bytes(folder: Path) -> int:
    """Return the bytes that this user may still write below ``folder``."""
    try:
        status = os.statvfs(folder)
    except OSError as error:
        raise DatasetError(f"cannot access {folder}: {error.strerror}") from error
    return status.f_bavail * status.f_frsize
