"""Checks that a chunk's observation is new, and recent enough to show where the arm is."""

from __future__ import annotations

from openvla_ros.values.time import seconds
from openvla_ros.values.verdict import Reason, SafetyVerdict


class ObservationOrder:
    """The stamps of used observations, and the earliest stamp allowed for the next; nanoseconds."""

    def __init__(self) -> None:
        self._last_ns: int | None = None
        self._ready_ns: int | None = None

    def judge(self, stamp_ns: int) -> SafetyVerdict | None:
        """Return why an observation with ``stamp_ns`` may not be used, or None if it may."""
        last_ns, ready_ns = self._last_ns, self._ready_ns
        if last_ns is not None and stamp_ns == last_ns:
            return SafetyVerdict.hold(Reason.DUPLICATE, "the observation has already been used")
        if last_ns is not None and stamp_ns < last_ns:
            late_s = seconds(last_ns - stamp_ns)
            return SafetyVerdict.hold(
                Reason.OUT_OF_ORDER, f"the observation is {late_s:.3f} s older than the last one used"
            )
        if ready_ns is not None and stamp_ns < ready_ns:
            early_s = seconds(ready_ns - stamp_ns)
            return SafetyVerdict.hold(
                Reason.BUSY, f"the observation is from {early_s:.3f} s before the arm was ready for it"
            )
        return None

    def used(self, stamp_ns: int) -> None:
        """Note that a chunk from this observation was accepted."""
        self._last_ns = stamp_ns

    def look_after(self, now_ns: int | None) -> None:
        """Note that observations from before ``now_ns`` do not show the arm's current position."""
        self._ready_ns = now_ns

    def forget_time(self) -> None:
        """Forget every stamp: the clock went back."""
        self._last_ns = self._ready_ns = None
