"""Who presses the emergency stop's topic at present: each publisher's own last word.

Two buttons, or a button and ``openvla estop``, may publish the same topic. Letting go of one must not
release the other.
"""

from __future__ import annotations

from collections.abc import Collection


class StopButton:
    """Keeps which publishers said true last."""

    def __init__(self) -> None:
        self._pressed: set[bytes] = set()

    @property
    def pressed(self) -> int:
        """How many publishers said true last."""
        return len(self._pressed)

    def press(self, publisher: bytes) -> bool:
        """Note a true; return whether that is new, rather than a repetition."""
        new = publisher not in self._pressed
        self._pressed.add(publisher)
        return new

    def release(self, publisher: bytes, alive: Collection[bytes]) -> None:
        """Note a false of ``publisher``; it also releases for those that are not among ``alive`` any more."""
        self._pressed.discard(publisher)
        self._pressed &= set(alive)
