"""The controller's verdict as a message: ``diagnostic_msgs/DiagnosticStatus`` and back, and as an answer.

``controller/verdict`` has two kinds: the current verdict (``state``), and every refusal of a request
(``refusal``), which does not change the current verdict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from std_srvs.srv import Trigger

from openvla_ros.errors import InvalidValueError
from openvla_ros.robot.output import ControllerOutput
from openvla_ros.values.verdict import Reason, SafetyVerdict

Kind = Literal["state", "refusal"]
NAME = "controller/verdict"
# Reasons of normal operation, not errors.
ORDINARY = (Reason.OK, Reason.WAITING, Reason.HELD)


@dataclass(frozen=True)
class VerdictReport:
    """The contents of one message on ``controller/verdict``."""

    kind: Kind
    verdict: SafetyVerdict
    state: str  # the controller's state
    owner: str  # whose chunks are executed
    settled: bool  # nothing is left to execute and the arm is at rest
    source: str = ""  # a refusal of a chunk: whose it was
    chunk_stamp_ns: int | None = None  # and the stamp of its observation


def to_verdict_message(report: VerdictReport) -> DiagnosticStatus:
    """Return ``report`` as a message; the level is for people, the values for programs."""
    verdict = report.verdict
    if verdict.reason in ORDINARY:
        level = DiagnosticStatus.OK
    else:
        level = (
            DiagnosticStatus.WARN if verdict.commands or report.kind == "refusal" else DiagnosticStatus.ERROR
        )
    values = {
        "kind": report.kind,
        "outcome": verdict.outcome,
        "reason": str(verdict.reason),
        "detail": verdict.detail,
        "state": report.state,
        "owner": report.owner,
        "settled": str(report.settled).lower(),
    }
    if report.chunk_stamp_ns is not None:
        values |= {"source": report.source, "chunk_stamp_ns": str(report.chunk_stamp_ns)}
    return DiagnosticStatus(
        level=level,
        name=NAME,
        message=str(verdict),
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )


def from_verdict_message(message: DiagnosticStatus) -> VerdictReport:
    """Return the report in ``message``; the inverse of ``to_verdict_message``.

    Raises ``InvalidValueError`` for a message that is not the controller's.
    """
    values = {item.key: item.value for item in message.values}
    try:
        verdict = SafetyVerdict(
            "command" if values["outcome"] == "command" else "hold",
            Reason(values["reason"]),
            values["detail"],
        )
        kind: Kind = "refusal" if values["kind"] == "refusal" else "state"
        stamp = values.get("chunk_stamp_ns")
        return VerdictReport(
            kind,
            verdict,
            values["state"],
            values["owner"],
            values["settled"] == "true",
            values.get("source", ""),
            None if stamp is None else int(stamp),
        )
    except (KeyError, ValueError) as error:
        raise InvalidValueError(f"{message.name!r} is not a verdict of the controller: {error}") from error


def state_report(output: ControllerOutput) -> VerdictReport:
    """Return the report of the verdict at one tick."""
    return VerdictReport("state", output.verdict, str(output.state), output.owner, output.settled)


def trigger_service(
    act: Callable[[], SafetyVerdict], granted: Reason, refused: Callable[[SafetyVerdict], None]
) -> Callable[[Trigger.Request, Trigger.Response], Trigger.Response]:
    """Return the callback of a service that answers with a verdict.

    Args:
        act: Does what the service asks for.
        granted: A hold for this reason is what was asked for, and counts as success.
        refused: Called with any other hold.
    """

    def callback(_request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        verdict = act()
        response.success = verdict.commands or verdict.reason is granted
        response.message = str(verdict)
        if not response.success:
            refused(verdict)
        return response

    return callback
