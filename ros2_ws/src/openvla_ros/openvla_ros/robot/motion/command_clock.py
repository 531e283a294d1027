"""Command timing: decides which call of the control loop is a control period, and stamps it.

The loop's calls have jitter; the periods are even: a call that is too early does not count, a late one
counts once, so that jitter slows the motion down and never speeds it up. Because commands are stamped,
messages that arrive late, or two at once, still say when to be where. If the stamps lag behind the clock,
or run ahead of it, the periods are slightly longer or shorter until they have caught up; ``elapsed_s`` is
the length of each one, and that period's motion must take exactly that long: moving a stamp under a given
motion would change its speed.

The stamps may fall behind by as long as the robot's side waits for the next command. Beyond that, it has
not waited: the loop has overrun.
"""

from __future__ import annotations

from enum import Enum

from openvla_ros.values.time import nanoseconds, seconds

# A period is longer or shorter by this share while the stamps are not with the clock,
STRETCH = 0.05
# ... by more than this fraction of a period: the jitter of an ordinary loop changes nothing.
WITH_CLOCK_SHARE = 0.5
# Unused elapsed time carries over, up to this many periods.
MOST_CREDIT = 1.25
# A period may start early by up to this fraction.
EARLY_SHARE = 0.5


class Tick(Enum):
    """The meaning of one call of the control loop."""

    EARLY = "early"  # nothing is due
    PERIOD = "period"  # one control period
    OVERRUN = "overrun"  # a control period, later than the robot's side waits
    BACK = "back"  # the clock went back


class CommandClock:
    """Turns the times of the loop's calls into control periods with even stamps."""

    def __init__(self, period_s: float, allowed_s: float) -> None:
        """``allowed_s`` is how late a period may start before it counts as an overrun."""
        self._period_s, self._allowed_s = period_s, allowed_s
        self._period_ns = nanoseconds(period_s)
        self._called_ns: int | None = None
        self._credit_s = 0.0
        self.stamp_ns = 0  # of the newest period
        self.elapsed_s = 0.0  # from the period before it to the newest

    def tick(self, now_ns: int) -> Tick:
        """Return the meaning of the call at ``now_ns``."""
        before_ns, self._called_ns = self._called_ns, now_ns
        if before_ns is None:
            self._begin(now_ns)
            return Tick.PERIOD
        if now_ns < before_ns:
            self._begin(now_ns)
            return Tick.BACK
        self._credit_s = min(self._credit_s + seconds(now_ns - before_ns), MOST_CREDIT * self._period_s)
        if self._credit_s < EARLY_SHARE * self._period_s:
            return Tick.EARLY
        self._credit_s -= self._period_s
        due_ns = self.stamp_ns + self._period_ns
        late_ns = now_ns - due_ns
        if seconds(late_ns) > self._allowed_s:
            self.elapsed_s = seconds(now_ns - self.stamp_ns)
            self.stamp_ns = now_ns
            return Tick.OVERRUN
        step_ns = self._period_ns
        if abs(late_ns) > WITH_CLOCK_SHARE * self._period_ns:
            step_ns += round(STRETCH * self._period_ns) * (1 if late_ns > 0 else -1)
        self.stamp_ns += step_ns
        self.elapsed_s = seconds(step_ns)
        return Tick.PERIOD

    def _begin(self, now_ns: int) -> None:
        self._credit_s, self.stamp_ns, self.elapsed_s = 0.0, now_ns, self._period_s
