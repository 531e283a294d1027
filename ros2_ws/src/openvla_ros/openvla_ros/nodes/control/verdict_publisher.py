"""``controller/verdict``: the current verdict on change and periodically, and every refusal once."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node

from openvla_ros.robot.output import ControllerOutput
from openvla_ros.ros import qos
from openvla_ros.ros.messages import NS_PER_S
from openvla_ros.ros.verdict_messages import VerdictReport, state_report, to_verdict_message
from openvla_ros.values.verdict import Reason, SafetyVerdict

VERDICT_PERIOD_S = 0.5  # repeat period of an unchanged verdict
REFUSAL_PERIOD_S = 0.1  # shortest time between two refusals for the same reason
CHUNK_REFUSAL_PERIOD_S = 0.02  # the same, where a chunk was refused


class VerdictPublisher:
    """Publishes the controller's state and its answers to requests."""

    def __init__(self, node: Node) -> None:
        self._clock = node.get_clock()
        self._publisher = node.create_publisher(DiagnosticStatus, "controller/verdict", qos.VERDICT)
        self._reported: tuple[VerdictReport, int] | None = None
        self._refused: tuple[Reason, int] | None = None

    def report(self, output: ControllerOutput) -> None:
        """Publish the current verdict if it changed or its repeat period is over."""
        reported = self._reported
        if (
            reported is None
            or reported[0] != state_report(output)
            or self._is_past(reported[1], VERDICT_PERIOD_S)
        ):
            self.publish(output)

    def publish(self, output: ControllerOutput) -> None:
        """Publish the current verdict now."""
        report = state_report(output)
        self._reported = (report, self._now_ns())
        self._publisher.publish(to_verdict_message(report))

    def refuse(
        self,
        verdict: SafetyVerdict,
        output: ControllerOutput,
        source: str = "",
        chunk_stamp_ns: int | None = None,
    ) -> None:
        """Publish a refusal beside ``output``, unless the same reason was published a moment ago.

        Those of chunks follow each other more closely: a recording must tell which were executed.
        """
        if verdict.commands:
            return
        same = self._refused is not None and self._refused[0] is verdict.reason
        period_s = REFUSAL_PERIOD_S if chunk_stamp_ns is None else CHUNK_REFUSAL_PERIOD_S
        if self._refused is not None and same and not self._is_past(self._refused[1], period_s):
            return
        self._refused = (verdict.reason, self._now_ns())
        report = VerdictReport(
            "refusal", verdict, str(output.state), output.owner, output.settled, source, chunk_stamp_ns
        )
        self._publisher.publish(to_verdict_message(report))

    def _is_past(self, since_ns: int, period_s: float) -> bool:
        """Whether ``period_s`` have passed, or the clock was set back."""
        return not 0 <= self._now_ns() - since_ns < period_s * NS_PER_S

    def _now_ns(self) -> int:
        return int(self._clock.now().nanoseconds)
