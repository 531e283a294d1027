"""Detects messages lost in transit, from the middleware's sequence numbers.

A publisher numbers its messages consecutively, so a gap is exactly what did not arrive: overwritten in
the publisher's history, dropped by the transport, or pushed out of the subscription's queue, none of
which the middleware reports. Knows nothing of ROS.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

# How many messages of a topic a new subscription may receive again: what its publishers keep for latecomers.
KEPT = 32


class SequenceWatch:
    """Tracks every publisher of one topic; counting starts at its first message."""

    def __init__(self) -> None:
        self._newest: dict[bytes, int] = {}  # publisher → number of its newest message

    def missing(self, publisher: bytes, number: int) -> int | None:
        """Return how many messages ``publisher`` sent between its last one and this one.

        ``None``: a duplicate (a new subscription receives latched messages again).
        """
        newest = self._newest.get(publisher)
        if newest is not None and number <= newest:
            return None
        self._newest[publisher] = number
        return 0 if newest is None else number - newest - 1


class AnonymousSequenceWatch:
    """Tracks one topic whose messages are numbered, but do not say by whom (rclpy up to Jazzy)."""

    def __init__(self) -> None:
        self._newest: int | None = None
        self._recent: deque[tuple[int, int]] = deque(maxlen=KEPT)

    def restart(self) -> None:
        """Begin to count anew: the topic has other publishers than before."""
        self._newest = None

    def missing(self, number: int, sent_ns: int, alone: Callable[[], bool]) -> int | None:
        """Return how many messages were sent between the last one and this one; 0 if that is unknown.

        ``None``: a duplicate. ``alone`` says whether the topic has one publisher; it is called at a gap.
        """
        if (number, sent_ns) in self._recent:
            return None
        self._recent.append((number, sent_ns))
        newest, self._newest = self._newest, number
        if newest is None or number <= newest + 1 or not alone():
            return 0
        return number - newest - 1
