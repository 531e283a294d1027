"""Detects two publishers of chunks for one owner: two policies would drive one arm in turns."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rclpy.node import Node

from openvla_ros.discovery.endpoints import listed, publishers
from openvla_ros.values.verdict import Reason, SafetyVerdict

# A publisher that has sent nothing for this long is inactive: it was stopped, killed, or is waiting.
QUIET_S = 1.0


class ChunkSources:
    """The recent publishers of chunks on one topic."""

    def __init__(self, node: Node, topic: str) -> None:
        self._node, self._topic = node, topic
        self._heard_s: dict[bytes, float] = {}  # publisher → when, on the monotonic clock

    def judge(self, info: Mapping[str, Any]) -> SafetyVerdict | None:
        """Note a chunk received with ``info``; return why it is refused (another publisher), or None.

        Releases of rclpy that do not report a message's publisher (before 2024) cannot distinguish them.
        """
        gid = info.get("publisher_gid")
        if gid is None:
            return None
        now_s = time.monotonic()
        self._heard_s = {g: s for g, s in self._heard_s.items() if now_s - s < QUIET_S}
        self._heard_s[bytes(gid["data"])] = now_s
        if len(self._heard_s) < 2:
            return None
        names = [e.node for e in publishers(self._node, self._topic) if e.gid in self._heard_s]
        text = f"{listed(names)} publish on {self._node.resolve_topic_name(self._topic)} at the same time"
        return SafetyVerdict.hold(Reason.RIVAL, text)
