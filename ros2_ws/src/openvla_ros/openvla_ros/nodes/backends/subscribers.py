"""Whether anybody listens to what an adapter publishes."""

from __future__ import annotations

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
