"""Detects messages lost in transit, from the middleware's sequence numbers.

A publisher numbers its messages consecutively, so a gap is exactly what did not arrive: overwritten in
the publisher's history, dropped by the transport, or pushed out of the subscription's queue, none of
which the middleware reports. Knows nothing of ROS.
"""

from __future__ import annotations


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
