"""Who reports the arm's state: two publishers would make the arm jump between two places.

A second driver, ``joint_state_publisher`` or a twin in a viewer may publish the arm's joints on the same
topic. Which one is right cannot be known from the messages, so the arm stops; until it rests, the publisher
that was there first is believed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.node import Node

from openvla_ros.discovery.endpoints import publishers
from openvla_ros.discovery.message_publishers import MessagePublishers, Publisher, described

# A publisher that is silent for this long and no longer listed has ended. One that is still listed may go on:
# a busy machine can keep it quiet for seconds, and then the other one must not be believed in its place.
QUIET_S = 1.0
# DDS lists a killed process for up to 20 s.
GONE_S = 10.0
LOOK_S = 0.1  # how often it is looked who is listed


class Rivals:
    """What several watches say of others beside this controller, as one text."""

    def __init__(self, changed: Callable[[str | None], None]) -> None:
        """``changed`` is called with the text, or None once there are none."""
        self._changed = changed
        self._found: dict[str, str] = {}  # watch → what it says
        self._said: str | None = ""  # nothing yet

    def note(self, watch: str, text: str | None) -> None:
        """Note what ``watch`` says now."""
        self._found.pop(watch, None)
        if text is not None:
            self._found[watch] = text
        said = "; ".join(self._found.values()) or None
        if said != self._said:
            self._said = said
            self._changed(said)


class StateSources:
    """The recent publishers of one kind of report."""

    def __init__(self, node: Node, topic: str, rivals: Rivals) -> None:
        self._node, self._topic, self._rivals = node, topic, rivals
        self._publishers = MessagePublishers()
        # Publisher → when, on the monotonic clock; the first one first.
        self._heard_s: dict[Publisher, float] = {}
        self._looked_s = 0.0  # when it was last looked who is listed

    def believe(self, info: Mapping[str, Any]) -> bool:
        """Note a report received with ``info``; return whether it is from the publisher to believe.

        Where ROS says nothing about a message's publisher (Humble), they cannot be distinguished.
        """
        now_s, before = time.monotonic(), len(self._heard_s)
        publisher = self._publishers.of(info, now_s)
        if publisher is None:
            return True
        self._heard_s[publisher] = now_s
        if before > 1 or len(self._heard_s) > 1:
            self._drop_ended(now_s)
        if len(self._heard_s) != before and max(before, len(self._heard_s)) > 1:
            self._rivals.note(self._topic, self._described())
        return publisher == next(iter(self._heard_s))

    def _drop_ended(self, now_s: float) -> None:
        """Forget the publishers that have ended."""
        silent = [publisher for publisher, heard_s in self._heard_s.items() if now_s - heard_s > QUIET_S]
        if silent and now_s - self._looked_s > LOOK_S:
            self._looked_s = now_s
            listed_now = {endpoint.gid for endpoint in publishers(self._node, self._topic)}
            for publisher in silent:
                if isinstance(publisher, bytes):
                    ended = publisher not in listed_now
                else:  # told apart by their messages' numbers: fewer are listed than were heard
                    ended = len(listed_now) < len(self._heard_s)
                if ended or now_s - self._heard_s[publisher] > GONE_S:
                    del self._heard_s[publisher]

    def _described(self) -> str | None:
        if len(self._heard_s) < 2:
            return None
        names = described(self._node, self._topic, self._heard_s)
        topic = self._node.resolve_topic_name(self._topic)
        return f"{names} report the arm's state on {topic}: only one can be right"
