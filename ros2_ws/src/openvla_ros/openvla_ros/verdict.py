"""The controller's answer to what it was asked to do: command, or hold, and why.

One type for every check of the safety chain, so that a refusal is a value that can be counted,
shown and tested, not a line in a log.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from openvla_ros.errors import InvalidValueError

Outcome = Literal["command", "hold"]


class Reason(str, Enum):
    """Why the arm was limited or held. The values are the keys of the counters in ``/diagnostics``."""

    OK = "ok"
    # The chunk itself.
    NOT_FINITE = "not_finite"
    WIDTH = "width"
    SPACE = "space"
    TIMING = "timing"  # the steps' duration is not the action space's, or the clock went back
    STALE = "stale"  # computed from too old an observation
    FUTURE = "future"  # stamped ahead of the controller's clock
    OUT_OF_ORDER = "out_of_order"
    DUPLICATE = "duplicate"
    STEP_BOUNDS = "step_bounds"
    # Who may move the arm, and when.
    OWNER = "owner"
    BUSY = "busy"  # blocking control: the previous move is not over, or was not looked at
    HELD = "held"  # the operator asked for a hold
    E_STOP = "e_stop"
    DEAD_MAN = "dead_man"
    WAITING = "waiting"  # nothing has been asked for
    STARVED = "starved"  # no new chunk in time
    SHUT_DOWN = "shut_down"
    OVERRUN = "overrun"  # the control loop stood still for longer than the robot's side waits for it
    # Where the motion would lead.
    WORKSPACE = "workspace"
    TILT = "tilt"
    TABLE = "table"
    SELF_COLLISION = "self_collision"
    JOINT_LIMIT = "joint_limit"
    INVERSE_KINEMATICS = "inverse_kinematics"
    # What the robot reports.
    NO_STATE = "no_state"
    STATE_STALE = "state_stale"
    STATE_INVALID = "state_invalid"
    TRACKING = "tracking"
    EFFORT = "effort"
    WRENCH = "wrench"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class SafetyVerdict:
    """Command or hold, with the reason; ``detail`` names the value and the limit.

    ``command`` with a reason other than OK means that the motion goes on, limited as ``detail`` says.
    """

    outcome: Outcome
    reason: Reason = Reason.OK
    detail: str = ""

    def __post_init__(self) -> None:
        if self.outcome == "hold" and self.reason is Reason.OK:
            raise InvalidValueError("a hold needs a reason")

    @property
    def commands(self) -> bool:
        """Whether the arm is moved."""
        return self.outcome == "command"

    @classmethod
    def command(cls, reason: Reason = Reason.OK, detail: str = "") -> SafetyVerdict:
        """Return the verdict that lets the motion go on."""
        return cls("command", reason, detail)

    @classmethod
    def hold(cls, reason: Reason, detail: str) -> SafetyVerdict:
        """Return the verdict that stops the arm, or keeps it where it is."""
        return cls("hold", reason, detail)

    def __str__(self) -> str:
        return f"{self.outcome}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


OK = SafetyVerdict.command()
