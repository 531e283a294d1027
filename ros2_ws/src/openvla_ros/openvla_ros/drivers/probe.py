"""Lets a driver inspect a robot's software without publishing commands.

A publisher on the arm's command topic counts as a second controller, even if it never publishes.
"""

from __future__ import annotations

from typing import Any, cast

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible


class _Unpublished:
    """Stands in for a publisher that is not created; counts its would-be subscribers."""

    def __init__(self, node: Node, kind: type, topic: str, profile: QoSProfile) -> None:
        self._node, self._profile = node, profile
        self._type = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
        self.topic_name = node.resolve_topic_name(topic)

    def get_subscription_count(self) -> int:
        """Return how many subscriptions match the type and the QoS."""
        return sum(
            info.topic_type == self._type
            and qos_check_compatible(_bare(self._profile), _bare(info.qos_profile))[0]
            != QoSCompatibility.ERROR
            for info in self._node.get_subscriptions_info_by_topic(self.topic_name)
        )


def _bare(profile: QoSProfile) -> QoSProfile:
    """Return only what can keep the two apart here: rclpy takes an endless deadline for a real one."""
    return QoSProfile(depth=1, reliability=profile.reliability, durability=profile.durability)


class _LookingNode:
    """A node whose publishers are not created; everything else is the node's own."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def create_publisher(self, kind: type, topic: str, profile: QoSProfile) -> _Unpublished:
        """Return the stand-in, which counts the subscribers of ``topic``."""
        return _Unpublished(self._node, kind, topic, profile)


def looking(node: Node) -> Node:
    """Return ``node`` wrapped for drivers of which only ``missing()`` is called."""
    return cast(Node, _LookingNode(node))
