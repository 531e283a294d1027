"""Whether a chunk's observation is a new one, and shows the arm where it is now."""

from __future__ import annotations

from openvla_ros.values.time import seconds
from openvla_ros.values.verdict import Reason, SafetyVerdict


class ObservationOrder:
    """The stamps of the observations that were acted on, and from when on the next may be; nanoseconds."""

    def __init__(self) -> None:
        self._last_ns: int | None = None
        self._ready_ns: int | None = None

    def judge(self, stamp_ns: int) -> SafetyVerdict | None:
        """Return why an observation of ``stamp_ns`` may not be acted on, or None if it may."""
        last_ns, ready_ns = self._last_ns, self._ready_ns
        if last_ns is not None and stamp_ns == last_ns:
            return SafetyVerdict.hold(Reason.DUPLICATE, "the observation has been used already")
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
        """Note that a chunk of this observation was accepted."""
        self._last_ns = stamp_ns

    def look_after(self, now_ns: int | None) -> None:
        """Note that an observation from before ``now_ns`` does not show where the arm is now."""
        self._ready_ns = now_ns

    def forget_time(self) -> None:
        """Forget every stamp: the clock went back."""
        self._last_ns = self._ready_ns = None
