"""The time line of the commands: which call of the control loop is a control period, and its stamp.

The loop calls at uneven times. Its periods follow each other evenly: a call that comes too early is
none, a late one is one and no more, so that jitter slows the motion down and never speeds it up. What
arrives late, or two at once, still says when to be where. Where the stamps have fallen behind the clock,
or run ahead of it, the periods are a little longer or shorter until they are with it again; how long
each one is stands in ``elapsed_s``, and the motion of that period must take that long, for a stamp that
is moved under a given motion would change its speed.

How far the stamps may fall behind is what the robot's side can wait for the next command. Beyond
that it has not waited: the loop has overrun.
"""

from __future__ import annotations

from enum import Enum

from openvla_ros.values.time import nanoseconds, seconds

# A period is longer or shorter by this share while the stamps are not with the clock,
STRETCH = 0.05
# which they are within this share of a period: the jitter of an ordinary loop changes nothing.
WITH_CLOCK_SHARE = 0.5
# Passed time that is not used up by periods is remembered up to this many of them.
MOST_CREDIT = 1.25
# A period may begin so much of one early.
EARLY_SHARE = 0.5


class Tick(Enum):
    """What one call of the control loop is."""

    EARLY = "early"  # nothing is due
    PERIOD = "period"  # one control period
    OVERRUN = "overrun"  # a control period, later than the robot's side waits for
    BACK = "back"  # the clock went back


class CommandClock:
    """Turns the times at which the loop calls into control periods with even stamps."""

    def __init__(self, period_s: float, allowed_s: float) -> None:
        """``allowed_s`` is how late a period may begin before it is an overrun."""
        self._period_s, self._allowed_s = period_s, allowed_s
        self._period_ns = nanoseconds(period_s)
        self._called_ns: int | None = None
        self._credit_s = 0.0
        self.stamp_ns = 0  # of the newest period
        self.elapsed_s = 0.0  # from the period before it to the newest

    def tick(self, now_ns: int) -> Tick:
        """Return what the call at ``now_ns`` is."""
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
