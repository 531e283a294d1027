"""Whether anybody listens to what an adapter publishes, and whether it has arrived."""

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
        return f"{topic} is taken as {', '.join(types)}, which does not match: check the back end's kind"
    return f"no {what} subscribes to {topic}: is the robot's driver running?"


def acknowledged(publisher: Publisher, timeout_s: float) -> bool:
    """Wait until every subscriber has what was published; return whether that was within ``timeout_s``.

    What a subscriber missed is sent again only for as long as its publisher exists. Nobody
    acknowledges a best-effort subscription: it counts as served, and so does having no subscriber.
    A middleware that knows of no acknowledgements has none to show.
    """
    try:
        return bool(publisher.wait_for_all_acked(Duration(seconds=timeout_s)))
    except rclpy_implementation.RCLError:
        return False
