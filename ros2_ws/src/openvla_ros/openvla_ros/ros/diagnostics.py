"""``/diagnostics`` once a second, from the health values that a node keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from openvla_ros.ros.guard import Guard, Refused
from openvla_ros.ros.qos import DIAGNOSTICS
from openvla_ros.values.health import Health, Level

LEVELS: dict[Level, bytes] = {
    "ok": DiagnosticStatus.OK,
    "warn": DiagnosticStatus.WARN,
    "error": DiagnosticStatus.ERROR,
    "stale": DiagnosticStatus.STALE,
}


def to_status(health: Health, node_name: str) -> DiagnosticStatus:
    """Return ``health`` as a status message of the node ``node_name``."""
    return DiagnosticStatus(
        level=LEVELS[health.level],
        name=f"{node_name}: {health.name}",
        message=health.message,
        hardware_id=node_name,
        values=[KeyValue(key=key, value=value) for key, value in health.values.items()],
    )


class DiagnosticsPublisher:
    """Publishes what ``collect`` returns, every ``period_s`` seconds."""

    def __init__(self, node: Node, collect: Callable[[], Iterable[Health]], period_s: float = 1.0) -> None:
        self._node, self._collect = node, collect
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", DIAGNOSTICS)
        self._timer = node.create_timer(period_s, self.publish)

    def publish(self) -> None:
        """Publish once, now."""
        name = self._node.get_fully_qualified_name().lstrip("/")
        message = DiagnosticArray(status=[to_status(health, name) for health in self._healths()])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def _healths(self) -> list[Health]:
        """Return every health value, plus the guard's refusals, even if the rest fails."""
        guard: Guard | None = getattr(self._node, "guard", None)
        if guard is None:
            return list(self._collect())
        collected = guard.call("diagnostics", lambda: list(self._collect()))
        return [*([] if isinstance(collected, Refused) else collected), guard.health()]
