"""State of the emergency stop topic: the last message of each publisher.

Two buttons, or a button and ``openvla estop``, may publish on the same topic. Releasing one must not
release the other.
"""

from __future__ import annotations

from collections.abc import Collection


class StopButton:
    """Remembers which publishers last sent true."""

    def __init__(self) -> None:
        self._pressed: set[bytes] = set()

    @property
    def pressed(self) -> int:
        """Number of publishers that last sent true."""
        return len(self._pressed)

    def press(self, publisher: bytes) -> bool:
        """Note a true; return whether it is new rather than repeated."""
        new = publisher not in self._pressed
        self._pressed.add(publisher)
        return new

    def release(self, publisher: bytes, alive: Collection[bytes]) -> None:
        """Note a false from ``publisher``; also releases publishers that are no longer ``alive``."""
        self._pressed.discard(publisher)
        self._pressed &= set(alive)
