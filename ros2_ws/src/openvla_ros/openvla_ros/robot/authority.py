"""Who may move the arm: one owner at a time, and the latched stops."""

from __future__ import annotations

from typing import Literal, get_args

from openvla_ros.errors import InvalidValueError
from openvla_ros.values.verdict import Reason, SafetyVerdict

Owner = Literal["policy", "teleoperation"]
PERSON: Owner = "teleoperation"

# From strong to weak: a weaker latch never replaces a stronger one.
STRENGTH = (Reason.SHUT_DOWN, Reason.E_STOP, Reason.RIVAL, Reason.DRIVER, Reason.HELD)
# Why nothing is commanded at all, and what a hold says once that is over.
BARS = {
    Reason.RIVAL: "nobody else commands the arm any more; give the arm to an owner to continue",
    Reason.DRIVER: "the arm's driver is ready; give the arm to an owner to continue",
}


class Authority:
    """The owner of the arm, and the latched stop."""

    def __init__(self, owner: Owner) -> None:
        self.owner: Owner = checked_owner(owner)
        self.latched: SafetyVerdict | None = None
        self._bars: dict[Reason, str] = {}  # those of ``BARS`` that stand, in words
        self._fresh = False  # the arm was never moved before the latched bar
        self.sent_to: str | None = None  # the named pose where a person wants the arm to stay

    def judge(self, source: str) -> SafetyVerdict | None:
        """Return why ``source`` may not move the arm now, or None if it may."""
        if self.latched is not None:
            return self.latched
        if source != self.owner:
            return SafetyVerdict.hold(Reason.OWNER, f"a chunk from {source}, but {self.owner} has the arm")
        return None

    def judge_pose(self) -> SafetyVerdict | None:
        """Return why nobody moves the arm on from where it was sent, or None if it was not."""
        if self.sent_to is None:
            return None
        return SafetyVerdict.hold(
            Reason.HELD, f"the arm was sent to {self.sent_to}; give it to an owner to go on"
        )

    def latch(self, reason: Reason, detail: str) -> bool:
        """Latch a stop; returns False if a stronger one is already latched."""
        if reason not in BARS:
            self._fresh = False
        if self.latched is not None and STRENGTH.index(self.latched.reason) < STRENGTH.index(reason):
            return False
        self.latched = SafetyVerdict.hold(reason, detail)
        return True

    def reset_e_stop(self) -> bool:
        """Weaken a latched emergency stop to a hold; returns False if there is none."""
        if self.latched is None or self.latched.reason is not Reason.E_STOP:
            return False
        self.latched = SafetyVerdict.hold(
            Reason.HELD, "emergency stop reset; give the arm to an owner to continue"
        )
        return True

    def latch_bar(self) -> None:
        """Latch the stop of a bar that stands beside a stop that is weaker now."""
        for reason in BARS:
            if reason in self._bars and self.latch(reason, self._bars[reason]):
                return

    @property
    def barred(self) -> str | None:
        """Why nothing may be commanded, not even a stop once the arm rests; None if that is not so."""
        return "; ".join(self._bars.values()) or None

    def bar(self, reason: Reason, why: str, fresh: bool) -> bool:
        """Command nothing, for one of ``BARS``; returns False if a stronger stop is already latched.

        ``fresh``: nothing has moved the arm yet, so that the end of the bar needs no person.
        """
        self._bars[reason] = why
        if self.latched is None or self.latched.reason not in BARS:
            self._fresh = fresh
        return self.latch(reason, why)

    def unbar(self, reason: Reason) -> bool:
        """End a bar; returns False if no stop was latched because of it.

        The stop becomes that of another bar, or a hold, or nothing if the arm was never moved.
        """
        self._bars.pop(reason, None)
        if self.latched is None or self.latched.reason is not reason:
            return False
        left = next((bar for bar in BARS if bar in self._bars), None)
        if left is not None:
            self.latched = SafetyVerdict.hold(left, self._bars[left])
        else:
            self.latched = None if self._fresh else SafetyVerdict.hold(Reason.HELD, BARS[reason])
        return True

    def give_to(self, owner: Owner) -> SafetyVerdict | None:
        """Make ``owner`` the owner and release a hold; returns a stronger latch that prevents it, or None."""
        checked_owner(owner)
        if self.latched is not None and self.latched.reason is not Reason.HELD:
            return self.latched
        self.latched = self.sent_to = None
        self.owner = owner
        return None


def checked_owner(owner: str) -> Owner:
    """Return ``owner``; raises ``InvalidValueError`` listing the possible owners."""
    for known in get_args(Owner):
        if owner == known:
            return owner  # type: ignore[return-value]
    raise InvalidValueError(f"owner is {owner!r}; it must be one of {', '.join(get_args(Owner))}")
