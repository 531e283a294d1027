"""Which instructions on a latched topic count: those given while the policy listens, each once.

A latched publisher delivers its last message to every new subscriber, so a policy that was killed and
started again hears the instruction that its predecessor was carrying out. The publisher's time stamp
says that it is old. Knows nothing of ROS.
"""

from __future__ import annotations

NS_PER_S = 1_000_000_000
# A stamp this far ahead of the listener's clock cannot be trusted to say that a message is new.
CLOCK_TOLERANCE_NS = 100_000_000


class InstructionFilter:
    """Decides whether an instruction counts, from when it was published.

    ``since_ns`` is when listening began; all times are the system's clocks in ns since the epoch.
    """

    def __init__(self, since_ns: int, resume: bool = False) -> None:
        """``resume``: an instruction that was there before counts too."""
        self._since_ns, self._resume = since_ns, resume
        self._newest_ns = 0

    def is_repeat(self, published_ns: int) -> bool:
        """Return whether a message published then was taken in before (0: not known)."""
        return 0 < published_ns <= self._newest_ns

    def take(self, published_ns: int) -> None:
        """Note that the message published then has been dealt with."""
        self._newest_ns = max(self._newest_ns, published_ns)

    def objection(self, published_ns: int, now_ns: int) -> str:
        """Return why a message from a latched publisher does not count, or an empty string."""
        if self._resume:
            return ""
        if published_ns < self._since_ns:
            age_s = (self._since_ns - published_ns) / NS_PER_S
            when = f"{age_s:.1f} s" if published_ns else "an unknown time"
            return f"it was given {when} before this policy began to listen"
        ahead_ns = published_ns - now_ns
        if ahead_ns > CLOCK_TOLERANCE_NS:
            return f"its publisher's clock is {ahead_ns / NS_PER_S:.1f} s ahead: it may be an old one"
        return ""
