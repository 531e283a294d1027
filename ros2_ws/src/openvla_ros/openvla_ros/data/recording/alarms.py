"""What endangers a recording at present: each danger is told once when it arises, and kept until it ends."""

from __future__ import annotations

from collections.abc import Callable

from openvla_ros.values.health import Level

Tell = Callable[[Level, str], None]  # a level, and a line for people


class Alarms:
    """The dangers in force by name; ``tell`` hears of each when it arises or gets worse."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._raised: dict[str, tuple[Level, str]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._raised

    def set_off(self, name: str, level: Level, text: str) -> None:
        """Put ``name`` in force; the text of one that is in force already is brought up to date."""
        known = self._raised.get(name)
        self._raised[name] = (level, text)
        if known is None or known[0] != level:
            self._tell(level, text)

    def end(self, name: str) -> None:
        """Note that ``name`` is over."""
        self._raised.pop(name, None)

    def end_all(self) -> None:
        """Note that nothing is in danger."""
        self._raised.clear()

    def worst(self) -> tuple[Level, str]:
        """Return the worst level in force and what is said at it; ``("ok", "")`` without any."""
        raised = list(self._raised.values())
        for level in ("error", "warn"):
            texts = [text for at, text in raised if at == level]
            if texts:
                return ("error" if level == "error" else "warn"), "; ".join(texts)
        return "ok", ""
