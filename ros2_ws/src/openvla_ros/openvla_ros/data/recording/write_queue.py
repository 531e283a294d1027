"""Received messages that are not stored yet, in order, with bounded memory.

Not thread-safe: guard a shared one with a lock.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ReceivedMessage:
    """One serialised message and when it arrived."""

    topic: str
    data: bytes
    received_ns: int
    sent_ns: int
    taken_s: float = field(default_factory=time.monotonic)  # on the monotonic clock


class Backlog:
    """At most ``limit_bytes`` of messages, oldest first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._messages: deque[ReceivedMessage] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: ReceivedMessage) -> bool:
        """Append ``message``; return False, and drop it, if there is no room."""
        if self.bytes + len(message.data) > self._limit_bytes:
            return False
        self._messages.append(message)
        self.bytes += len(message.data)
        return True

    def take(self, most_bytes: int) -> list[ReceivedMessage]:
        """Take the oldest messages, as many as fit into ``most_bytes`` but at least one; none if empty."""
        taken: list[ReceivedMessage] = []
        size = 0
        while self._messages and (not taken or size + len(self._messages[0].data) <= most_bytes):
            taken.append(self._messages.popleft())
            size += len(taken[-1].data)
        self.bytes -= size
        return taken

    def age_s(self) -> float:
        """Return the age of the oldest message, seconds; 0 if empty."""
        return time.monotonic() - self._messages[0].taken_s if self._messages else 0.0

    def give_back(self, messages: Sequence[ReceivedMessage]) -> None:
        """Put messages that were taken back to the front."""
        self._messages.extendleft(reversed(messages))
        self.bytes += sum(len(message.data) for message in messages)
