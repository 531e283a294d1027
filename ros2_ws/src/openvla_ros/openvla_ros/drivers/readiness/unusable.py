"""Why an arm must not be moved through its own software although that is there, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Unusable:
    """What is wrong, and its remedy: a command, or what to change."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


class ArmState(Protocol):
    """Asks the arm's own software whether the arm may be moved through it."""

    problem: Unusable | None  # as last returned by ``progress``

    @property
    def is_known(self) -> bool:
        """Whether that software has answered."""
        ...

    def progress(self) -> Unusable | None:
        """Continue without blocking; return why the arm must not be moved, or ``None``."""
        ...

    def close(self) -> None:
        """Ask no more."""
        ...


def worded(problem: Unusable | None) -> str | None:
    """Return ``problem`` as a line, or ``None``."""
    return None if problem is None else str(problem)
