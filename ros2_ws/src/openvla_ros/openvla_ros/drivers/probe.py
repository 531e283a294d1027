"""Lets an adapter look at a robot's software without offering it commands.

A publisher on the arm's command topic is a second commander to everybody who looks, used or not.
"""

from __future__ import annotations

from typing import Any, cast

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible


class _Unpublished:
    """Stands for a publisher that is not created; counts who would subscribe to it."""

    def __init__(self, node: Node, kind: type, topic: str, profile: QoSProfile) -> None:
        self._node, self._profile = node, profile
        self._type = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
        self.topic_name = node.resolve_topic_name(topic)

    def get_subscription_count(self) -> int:
        """Return how many subscriptions match the type and the quality of service."""
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
        """Return what counts the subscribers of ``topic``."""
        return _Unpublished(self._node, kind, topic, profile)


def looking(node: Node) -> Node:
    """Return ``node`` for adapters that are asked ``missing()`` and nothing else."""
    return cast(Node, _LookingNode(node))
