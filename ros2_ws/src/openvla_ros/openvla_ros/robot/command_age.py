"""How old the observation behind the arm's commands is when they go out: from the camera to the arm.

The one latency that a robot feels. It runs from the stamp of the observation (the camera's, for a
policy; the hand's, for teleoperation) to the moment a command that follows it has been published,
over transport, inference, the checks, the step before that is finished first, and the period of the
control loop. Sits behind ``ArmController``; knows no clock and no messages.
"""

from __future__ import annotations

from openvla_ros.values.health import Health, LatencyHealth
from openvla_ros.values.time import seconds

# Ten seconds of commands at 100 Hz.
COMMANDS = 1000


class CommandAge:
    """Watches the observations behind the commands of one owner of the arm.

    ``mean_ms`` to ``max_ms`` are over the *first* command of each chunk: what is usually called
    camera-to-command latency. ``every_p50_ms`` to ``every_max_ms`` are over every command, also those
    of a chunk's later steps, and tell how old a view the arm acts on. ``newest_ms`` is the newest one.
    """

    def __init__(self, name: str, limit_s: float, window: int = 200) -> None:
        """Warn about a 95th percentile of the first commands above ``limit_s``; ``window`` counts chunks."""
        self._first = LatencyHealth(name, limit_s, window)
        self._every = LatencyHealth(name, limit_s, COMMANDS)
        self._observation_ns: int | None = None
        self._newest_s: float | None = None
        self.chunks = 0  # that were followed by a command

    def sent(self, observation_ns: int | None, now_ns: int) -> None:
        """Note a command that was published at ``now_ns``; None if it follows no observation (a stop)."""
        if observation_ns is None:
            self._observation_ns = self._newest_s = None
            return
        self._newest_s = seconds(now_ns - observation_ns)
        self._every.add(self._newest_s)
        if observation_ns != self._observation_ns:
            self._observation_ns = observation_ns
            self._first.add(self._newest_s)
            self.chunks += 1

    def health(self) -> Health:
        """Return the ages of the windows."""
        first, newest_s = self._first.health(), self._newest_s
        every = {f"every_{key}": value for key, value in self._every.health().values.items()}
        every.pop("every_mean_ms", None)
        values = {
            **first.values,
            **every,
            "newest_ms": "" if newest_s is None else f"{1e3 * newest_s:.2f}",
            "chunks": str(self.chunks),
        }
        return Health(first.name, first.level, first.message, values)
