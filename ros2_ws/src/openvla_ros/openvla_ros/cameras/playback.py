"""The timing of a played recording: when each image is due, and its stamp."""

from __future__ import annotations

from openvla_ros.values.time import NS_PER_S


class Playback:
    """Image ``i`` is due ``i / rate_hz`` seconds after the start, however late the earlier ones were.

    Stamps are exactly on that grid: a recording played at 5 Hz has stamps 0.2 s apart.
    """

    def __init__(self, rate_hz: float, start_ns: int) -> None:
        self.rate_hz, self.start_ns = rate_hz, start_ns
        self._count = 0

    def next_stamp_ns(self) -> int:
        """Return the stamp of the next image in nanoseconds, on the clock of ``start_ns``, and advance."""
        stamp = self.start_ns + round(self._count * NS_PER_S / self.rate_hz)
        self._count += 1
        return stamp

    def postpone(self, earliest_ns: int) -> None:
        """Shift the grid if necessary, so that the next image is due at ``earliest_ns`` or later."""
        due = self.start_ns + round(self._count * NS_PER_S / self.rate_hz)
        self.start_ns += max(0, earliest_ns - due)
