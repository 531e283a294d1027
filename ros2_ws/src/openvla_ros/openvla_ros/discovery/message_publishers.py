"""Which publisher of a topic sent a message: by its gid, or, where rclpy reports none, by its number.

rclpy reports the publisher's gid since Kilted. Jazzy's (7.1.6) only reports the number that the publisher
gave the message. One publisher counts upwards, so a number that is not above the newest one, or too far above
it to be what was lost, is another publisher's. Messages of two publishers may be confused where their numbers
are close; that there are two is noticed all the same. Where neither is reported (Humble; Cyclone DDS in
Jazzy), nothing is told apart.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node

from openvla_ros.discovery.endpoints import listed, publishers

# A gid, or a number of ours for what was told apart by the messages' numbers.
Publisher = bytes | int

# More messages than this in a row are not lost at once, unless there was time to send them at this rate.
LOST_AT_ONCE, FASTEST_HZ = 100, 2000.0
# A publisher that continues after this time may be taken for another one.
FORGET_S = 10.0
# Of two publishers with one number, the next one's turn is that of the one that was not heard last. One that
# has been silent for this long has no turn.
TURN_S = 1.0


@dataclass
class _Count:
    """The newest message of a publisher."""

    number: int
    heard_s: float


class MessagePublishers:
    """Tells apart the publishers of one topic."""

    def __init__(self) -> None:
        self._counts: dict[int, _Count] = {}
        self._next = 0

    def of(self, info: Mapping[str, Any], now_s: float) -> Publisher | None:
        """Return the publisher of a message that was received with ``info`` at ``now_s``, monotonic.

        None where ROS reports nothing to tell it by.
        """
        gid = info.get("publisher_gid")
        if gid is not None:
            return bytes(gid["data"])
        number = info.get("publication_sequence_number")
        if number is None:
            return None
        self._counts = {p: c for p, c in self._counts.items() if now_s - c.heard_s < FORGET_S}
        publisher = self._continued(int(number), now_s)
        if publisher is None:
            publisher, self._next = self._next, self._next + 1
        self._counts[publisher] = _Count(int(number), now_s)
        return publisher

    def _continued(self, number: int, now_s: float) -> int | None:
        """Return whose next message this is: the nearest below it."""

        def unlikely(publisher: int) -> tuple[int, bool, float]:
            count = self._counts[publisher]
            return number - count.number, now_s - count.heard_s > TURN_S, count.heard_s

        possible = [
            p for p, count in self._counts.items() if 0 < number - count.number <= _most(count, now_s)
        ]
        return min(possible, key=unlikely, default=None)


def _most(count: _Count, now_s: float) -> float:
    """Return how far a publisher may have counted since it was heard."""
    return max(LOST_AT_ONCE, FASTEST_HZ * (now_s - count.heard_s))


def described(node: Node, topic: str, chosen: Collection[Publisher]) -> str:
    """Return the nodes of the ``chosen`` publishers of ``topic`` as text.

    Where no gid says which they are: all, and how many of them.
    """
    endpoints = publishers(node, topic)
    gids = {publisher for publisher in chosen if isinstance(publisher, bytes)}
    if gids:
        return listed(e.node for e in endpoints if e.gid in gids)
    names = listed(e.node for e in endpoints)
    return f"{len(chosen)} of {names}" if len(endpoints) > len(chosen) else names
