"""Which images of a stream a policy looks at: those nearest to its own rate."""

from __future__ import annotations

NS_PER_S = 1_000_000_000


class Pacer:
    """Lets an image pass when one period of the policy has gone by since the last one that passed.

    The camera's own period is the grain: the image nearest to the moment passes, not the first
    one after it, so that 5 Hz from a 30 Hz camera is every sixth image whatever the jitter.
    """

    def __init__(self, period_s: float, camera_period_s: float) -> None:
        self._least_ns = round((period_s - 0.5 * min(camera_period_s, period_s)) * NS_PER_S)
        self._last_ns: int | None = None

    def due(self, stamp_ns: int) -> bool:
        """Return whether the image stamped so passes; a stamp before the last one starts over."""
        if self._last_ns is not None and 0 <= stamp_ns - self._last_ns < self._least_ns:
            return False
        self._last_ns = stamp_ns
        return True

    def passed(self, stamp_ns: int) -> None:
        """Note that the image stamped so passed in the place of the last one; the period counts from it."""
        self._last_ns = stamp_ns

    def reset(self) -> None:
        """Let the next image pass."""
        self._last_ns = None
