"""Whether the robot's side of a driver is there, is the same as before, and has received the messages."""

from __future__ import annotations

from collections.abc import Iterable

from rclpy.duration import Duration
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.topic_endpoint_info import TopicEndpointInfo


class Restarts:
    """Notices that another process has taken the place of the robot's side of a connection.

    One that is restarted within a second is never seen to be missing, and one that was killed is still
    listed for a while beside its successor. But each has its own endpoints, and the new one knows nothing
    of what was sent to the old one.
    """

    def __init__(self) -> None:
        self._known: frozenset[bytes] = frozenset()

    def noticed(self, endpoints: Iterable[TopicEndpointInfo]) -> bool:
        """Return whether, after others, an endpoint is listed that was not before."""
        found, known = frozenset(bytes(info.endpoint_gid) for info in endpoints), self._known
        self._known = found or known
        return bool(known) and not found <= known


def missing_subscriber(node: Node, publisher: Publisher, what: str) -> str | None:
    """Return a line that names the topic if no one subscribes to ``publisher``, else ``None``."""
    if publisher.get_subscription_count() > 0:
        return None
    topic = publisher.topic_name
    types = sorted({info.topic_type for info in node.get_subscriptions_info_by_topic(topic)})
    if types:
        return f"{topic} is subscribed as {', '.join(types)}, which does not match: check the driver's kind"
    return f"no {what} subscribes to {topic}: is the robot's driver running?"


def acknowledged(publisher: Publisher, timeout_s: float) -> bool:
    """Wait until every subscriber has received everything; return whether it has within ``timeout_s``.

    A missed message is resent only as long as its publisher exists. Best-effort subscriptions do not
    acknowledge and count as served, and so does having no subscriber or a middleware without
    acknowledgements.
    """
    try:
        return bool(publisher.wait_for_all_acked(Duration(seconds=timeout_s)))
    except rclpy_implementation.RCLError:
        return False
