"""Checks at runtime that streams that must have one publisher have only one, and reports the others.

Of two publishers with one name, one may be a killed process that is still listed; they count once both
have been listed for longer than a lease. Publishers with different names count at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from openvla_ros.discovery.endpoints import LEASE_S, UNKNOWN, Endpoint, listed, publishers, twins
from openvla_ros.profile import RobotProfile
from openvla_ros.values.health import Health

PERIOD_S = 1.0


def camera_topics(profile: RobotProfile) -> list[str]:
    """Return the image topics by the nodes' names for them, before remapping."""
    return [f"camera/{camera.name}/image_raw" for camera in profile.cameras]


class SoleWatch:
    """Checks once a second the publishers of some topics, and for other nodes with this node's name."""

    def __init__(self, node: Node, topics: Iterable[str]) -> None:
        self._node, self._topics = node, tuple(topics)
        self._since_s: dict[bytes, float] = {}  # publisher → when it was first listed
        self._problems: tuple[str, ...] = ()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(PERIOD_S, self._look, clock=steady)

    def health(self) -> Health:
        """Return the health: an error for every duplicate."""
        if self._problems:
            return Health("one publisher per stream", "error", "; ".join(self._problems), {})
        return Health("one publisher per stream", "ok", "no duplicates", {})

    def _look(self) -> None:
        found = tuple(self._found(time.monotonic()))
        for problem in found:
            if problem not in self._problems:
                self._node.get_logger().error(problem)
        self._problems = found

    def _found(self, now_s: float) -> Iterable[str]:
        own = self._node.get_fully_qualified_name()
        if own in twins(self._node):
            yield f"another node is also called {own}"
        listed_now: dict[bytes, float] = {}
        for topic in self._topics:
            endpoints = publishers(self._node, topic)
            for endpoint in endpoints:
                listed_now[endpoint.gid] = self._since_s.get(endpoint.gid, now_s)
            alive = self._alive(endpoints, listed_now, now_s)
            if len(alive) > 1:
                name = self._node.resolve_topic_name(topic)
                yield f"{listed(alive)} publish {name}; only one may"
        self._since_s = listed_now

    @staticmethod
    def _alive(endpoints: list[Endpoint], since_s: dict[bytes, float], now_s: float) -> list[str]:
        """Return one publisher per name, plus those that are certainly alive."""
        known = [e for e in endpoints if UNKNOWN not in e.node]
        old = [e.node for e in known if now_s - since_s[e.gid] > LEASE_S + 2 * PERIOD_S]
        return old + sorted({e.node for e in known} - set(old))
