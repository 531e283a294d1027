"""Messages that were lost on the way, from the sequence numbers that the middleware gives them.

A publisher numbers its messages one by one, so that a gap is exactly what did not arrive: overwritten
in the publisher's history, dropped by a transport, or pushed out of the subscription's queue, of
which the middleware itself tells nothing. Knows nothing of ROS.
"""

from __future__ import annotations


class SequenceWatch:
    """Follows every publisher of one topic. The first message of each is where counting begins."""

    def __init__(self) -> None:
        self._newest: dict[bytes, int] = {}  # publisher → number of its newest message

    def missing(self, publisher: bytes, number: int) -> int | None:
        """Return how many messages ``publisher`` sent between its last one and this one.

        ``None``: this one has been seen already (a new subscription is given latched messages again).
        """
        newest = self._newest.get(publisher)
        if newest is not None and number <= newest:
            return None
        self._newest[publisher] = number
        return 0 if newest is None else number - newest - 1
