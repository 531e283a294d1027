"""Who may move the arm: one owner at a time, and the latched stops."""

from __future__ import annotations

from typing import Literal, get_args

from openvla_ros.errors import InvalidValueError
from openvla_ros.values.verdict import Reason, SafetyVerdict

Owner = Literal["policy", "teleoperation"]
PERSON: Owner = "teleoperation"

# From strong to weak: a weaker latch never replaces a stronger one.
STRENGTH = (Reason.SHUT_DOWN, Reason.E_STOP, Reason.RIVAL, Reason.HELD)


class Authority:
    """The owner of the arm, and the latched stop."""

    def __init__(self, owner: Owner) -> None:
        self.owner: Owner = checked_owner(owner)
        self.latched: SafetyVerdict | None = None
        self.rivals: str | None = None  # who else commands the arm, in words
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

    def rival_gone(self) -> bool:
        """Weaken a stop latched because of a rival to a hold; returns False if there is none."""
        if self.latched is None or self.latched.reason is not Reason.RIVAL:
            return False
        self.latched = SafetyVerdict.hold(
            Reason.HELD, "nobody else commands the arm any more; give the arm to an owner to continue"
        )
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
