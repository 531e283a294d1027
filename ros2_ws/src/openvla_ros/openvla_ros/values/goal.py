"""The goal of an instruction: a verb, an object and, for some verbs, a destination.

Converts instructions to a ``Goal`` and back, with every phrasing that the simulated tasks use. Learned
policies read the words themselves; this is for the scripted expert, the success detectors and the
generation of instructions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from openvla_ros.errors import InvalidValueError


class Verb(str, Enum):
    """What to do with the object."""

    REACH = "reach"
    LIFT = "lift"
    PUT = "put"
    PUSH = "push"


# The first phrasing of each verb is the usual one. No two phrasings of different verbs are alike.
PHRASES: dict[Verb, tuple[str, ...]] = {
    Verb.REACH: ("move to the {object}", "go to the {object}", "reach for the {object}"),
    Verb.LIFT: ("lift the {object}", "pick up the {object}", "raise the {object}"),
    Verb.PUT: (
        "put the {object} {where} the {destination}",
        "place the {object} {where} the {destination}",
        "set the {object} {where} the {destination}",
    ),
    Verb.PUSH: ("push the {object} forward", "push the {object} away", "shove the {object} forward"),
}


@dataclass(frozen=True)
class Goal:
    """One thing to do, such as put / "red cube" / "plate"."""

    verb: Verb
    object: str
    destination: str | None = None

    def __post_init__(self) -> None:
        if (self.verb is Verb.PUT) != (self.destination is not None):
            raise InvalidValueError(
                f"goal {self.verb.value} {self.object!r} has destination {self.destination!r}; "
                "put needs one, the other verbs have none"
            )

    @property
    def phrasings(self) -> tuple[str, ...]:
        """Every way to say this goal, the usual one first."""
        where = "in" if self.destination == "bowl" else "on"
        return tuple(
            phrase.format(object=self.object, where=where, destination=self.destination)
            for phrase in PHRASES[self.verb]
        )

    @property
    def instruction(self) -> str:
        """The usual way to say this goal."""
        return self.phrasings[0]


def _pattern(phrase: str) -> re.Pattern[str]:
    escaped = re.escape(phrase).replace(r"\{object\}", r"(?P<object>[a-z]+(?: [a-z]+)?)")
    escaped = escaped.replace(r"\{where\}", "(?:in|on)")
    return re.compile(escaped.replace(r"\{destination\}", r"(?P<destination>[a-z]+(?: [a-z]+)?)"))


_PATTERNS = [(verb, _pattern(phrase)) for verb, phrases in PHRASES.items() for phrase in phrases]


def parse_goal(instruction: str) -> Goal:
    """Return the goal of ``instruction``; ignores case, surrounding white space and a full stop.

    Raises ``InvalidValueError`` listing the known phrasings.
    """
    words = " ".join(instruction.lower().strip().rstrip(".!").split())
    for verb, pattern in _PATTERNS:
        match = pattern.fullmatch(words)
        if match:
            return Goal(verb, match["object"], match.groupdict().get("destination"))
    known = "; ".join(phrase for phrases in PHRASES.values() for phrase in phrases)
    raise InvalidValueError(f"instruction {instruction!r} is not understood; known phrasings: {known}")
