"""Whether a driver's publisher has subscribers, and whether they have received its messages."""

from __future__ import annotations

from rclpy.duration import Duration
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.publisher import Publisher


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
