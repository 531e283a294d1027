"""Active recording alarms: reported once when raised, kept until cleared."""

from __future__ import annotations

from collections.abc import Callable

from openvla_ros.values.health import Level

Tell = Callable[[Level, str], None]  # a level, and a line for people


class Alarms:
    """The active alarms by name; ``tell`` is called when one is raised or gets worse."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._raised: dict[str, tuple[Level, str]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._raised

    def set_off(self, name: str, level: Level, text: str) -> None:
        """Raise the alarm ``name``, or update its text if it is already active."""
        known = self._raised.get(name)
        self._raised[name] = (level, text)
        if known is None or known[0] != level:
            self._tell(level, text)

    def end(self, name: str) -> None:
        """Clear the alarm ``name``."""
        self._raised.pop(name, None)

    def end_all(self) -> None:
        """Clear all alarms."""
        self._raised.clear()

    def worst(self) -> tuple[Level, str]:
        """Return the worst active level and its texts; ``("ok", "")`` without alarms."""
        raised = list(self._raised.values())
        for level in ("error", "warn"):
            texts = [text for at, text in raised if at == level]
            if texts:
                return ("error" if level == "error" else "warn"), "; ".join(texts)
        return "ok", ""
