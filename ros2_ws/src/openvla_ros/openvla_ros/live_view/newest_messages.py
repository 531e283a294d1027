"""The newest messages of a running robot, taken when somebody looks, not when they arrive.

No executor serves these subscriptions: a hundred joint states a second cost nothing until one is taken, and
of a stream only the newest waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rclpy.node import Node
from rclpy.subscription import Subscription

from openvla_ros.live_view.viewed_topics import ViewedTopic

MOST_AT_ONCE = 200  # of one topic: the others are looked at too


@dataclass(frozen=True)
class TakenMessage:
    """A message as it came."""

    role: str
    type_name: str
    data: bytes  # serialised
    received_ns: int  # when it arrived, by the system clock; 0 where the middleware does not say


class NewestMessages:
    """Subscriptions of ``node``, which must not be in an executor."""

    def __init__(self, node: Node, topics: list[ViewedTopic]) -> None:
        self._subscriptions: list[tuple[ViewedTopic, str, Subscription]] = []
        for topic in topics:
            name = f"{topic.type.__module__.split('.')[0]}/msg/{topic.type.__name__}"
            subscription = node.create_subscription(topic.type, topic.topic, _unused, topic.qos, raw=True)
            self._subscriptions.append((topic, name, subscription))

    def take(self) -> Iterator[TakenMessage]:
        """Yield what waits: of a stream the newest message, of the rest every one."""
        for topic, name, subscription in self._subscriptions:
            for _ in range(MOST_AT_ONCE):
                with subscription.handle:
                    taken = subscription.handle.take_message(subscription.msg_type, True)
                if taken is None:
                    break
                data, info = taken
                yield TakenMessage(topic.role, name, data, int(info.get("received_timestamp", 0)))


def _unused(_data: bytes) -> None:
    """Never called: messages are taken."""
