"""The controller's decision, command or hold, and the reason.

One type for all checks of the safety chain, so that a refusal is a value that can be counted, shown and
tested, not a line in a log.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from openvla_ros.errors import InvalidValueError

Outcome = Literal["command", "hold"]


class Reason(str, Enum):
    """Why the arm was limited or held. The values are the keys of the counters in ``/diagnostics``."""

    OK = "ok"  # all checks passed
    # The chunk itself.
    NOT_FINITE = "not_finite"  # a value is infinite or NaN
    WIDTH = "width"  # the number of values does not match the action space
    SPACE = "space"  # names, units or frame do not match the action space, or numbers are no rotation
    TIMING = "timing"  # the step duration does not match the action space, or the clock went back
    STALE = "stale"  # computed from an observation that is too old
    FUTURE = "future"  # stamped ahead of the controller's clock
    OUT_OF_ORDER = "out_of_order"  # a chunk's observation, or a joint state, is older than the previous one
    DUPLICATE = "duplicate"  # the observation has already been used
    STEP_BOUNDS = "step_bounds"  # far beyond the action space's bounds, or too far from the target before
    # Who may move the arm, and when.
    OWNER = "owner"  # somebody else has the arm
    BUSY = "busy"  # blocking control: the previous move is not finished, or not yet observed
    HELD = "held"  # the operator asked for a hold
    E_STOP = "e_stop"  # the emergency stop is pressed, or was pressed and not reset
    RIVAL = "rival"  # another node commands the same arm
    DRIVER = "driver"  # the arm's own software is set up so that the arm must not be moved through it
    DEAD_MAN = "dead_man"  # the dead man's switch was released, or the operator's commands stopped
    WAITING = "waiting"  # no command yet
    STARVED = "starved"  # no new chunk in time
    SHUT_DOWN = "shut_down"  # the controller is shutting down
    OVERRUN = "overrun"  # the control loop stalled for longer than the robot's side waits for it
    # Where the motion would lead.
    WORKSPACE = "workspace"  # the tool would leave the workspace box
    TILT = "tilt"  # the tool would tilt more than allowed
    TABLE = "table"  # a part of the arm would come too close to the table
    SELF_COLLISION = "self_collision"  # parts of the arm would touch
    JOINT_LIMIT = "joint_limit"  # a joint's measured position, or its target, is beyond its limits
    INVERSE_KINEMATICS = "inverse_kinematics"  # the target cannot be reached from here
    # What the robot reports.
    NO_STATE = "no_state"  # no joint state yet
    STATE_STALE = "state_stale"  # the newest joint state or wrench is too old
    STATE_INVALID = "state_invalid"  # a joint is missing from the state, or a value is not finite
    TRACKING = "tracking"  # the measured joints do not follow the commanded ones
    EFFORT = "effort"  # a joint pushes harder than allowed
    WRENCH = "wrench"  # the external force or torque is larger than allowed

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class SafetyVerdict:
    """Command or hold, with the reason; ``detail`` names the value and the limit.

    ``command`` with a reason other than OK means that the motion continues, limited as ``detail`` says.
    """

    outcome: Outcome
    reason: Reason = Reason.OK
    detail: str = ""

    def __post_init__(self) -> None:
        if self.outcome == "hold" and self.reason is Reason.OK:
            raise InvalidValueError("a hold needs a reason")

    @property
    def commands(self) -> bool:
        """Whether the arm may move."""
        return self.outcome == "command"

    @classmethod
    def command(cls, reason: Reason = Reason.OK, detail: str = "") -> SafetyVerdict:
        """Return a verdict that lets the motion continue.

        Args:
            reason: What limited the motion; OK if nothing did.
            detail: The value and the limit, in words.
        """
        return cls("command", reason, detail)

    @classmethod
    def hold(cls, reason: Reason, detail: str) -> SafetyVerdict:
        """Return a verdict that stops the arm, or keeps it where it is.

        Args:
            reason: Any but OK.
            detail: The value and the limit, in words.

        Raises:
            InvalidValueError: The reason is OK.
        """
        return cls("hold", reason, detail)

    def __str__(self) -> str:
        return f"{self.outcome}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


OK = SafetyVerdict.command()
