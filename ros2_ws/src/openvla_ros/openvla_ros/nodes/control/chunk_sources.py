"""Detects two publishers of chunks for one owner: two policies would drive one arm in turns."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rclpy.node import Node

from openvla_ros.discovery.message_publishers import MessagePublishers, Publisher, described
from openvla_ros.values.verdict import Reason, SafetyVerdict

# A publisher that has sent nothing for this long is inactive: it was stopped, killed, or is waiting.
QUIET_S = 1.0


class ChunkSources:
    """The recent publishers of chunks on one topic."""

    def __init__(self, node: Node, topic: str) -> None:
        self._node, self._topic = node, topic
        self._publishers = MessagePublishers()
        self._heard_s: dict[Publisher, float] = {}  # publisher → when, on the monotonic clock

    def judge(self, info: Mapping[str, Any]) -> SafetyVerdict | None:
        """Note a chunk received with ``info``; return why it is refused (another publisher), or None.

        Where ROS says nothing about a message's publisher (Humble), they cannot be distinguished.
        """
        now_s = time.monotonic()
        publisher = self._publishers.of(info, now_s)
        if publisher is None:
            return None
        self._heard_s = {p: s for p, s in self._heard_s.items() if now_s - s < QUIET_S}
        self._heard_s[publisher] = now_s
        if len(self._heard_s) < 2:
            return None
        names = described(self._node, self._topic, self._heard_s)
        text = f"{names} publish on {self._node.resolve_topic_name(self._topic)} at the same time"
        return SafetyVerdict.hold(Reason.RIVAL, text)
