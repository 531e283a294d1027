"""Age of the observation behind each command when it is sent: latency from camera to arm.

The latency that matters on a robot. It is measured from the stamp of the observation (the camera's, for a
policy; the device's, for teleoperation) to the moment when the resulting command has been published, and
includes transport, inference, the checks, the rest of the previous step, and the control period. Used
after ``ArmController``; knows no clock and no messages.
"""

from __future__ import annotations

from openvla_ros.values.health import Health, LatencyHealth
from openvla_ros.values.time import seconds

# Ten seconds of commands at 100 Hz.
COMMANDS = 1000


class CommandAge:
    """Tracks the observations behind the commands of one owner of the arm.

    ``mean_ms`` to ``max_ms`` are over the *first* command of each chunk: the usual camera-to-command latency.
    ``every_p50_ms`` to ``every_max_ms`` are over every command, those of a chunk's later steps included, and
    show how old the images are that the arm acts on. ``newest_ms`` is the newest one.
    """

    def __init__(self, name: str, limit_s: float, window: int = 200) -> None:
        """Warn if the 95th percentile of first commands exceeds ``limit_s``; ``window`` is in chunks."""
        self._first = LatencyHealth(name, limit_s, window)
        self._every = LatencyHealth(name, limit_s, COMMANDS)
        self._observation_ns: int | None = None
        self._newest_s: float | None = None
        self.chunks = 0  # that have led to a command

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
        """Return the ages over the windows."""
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
