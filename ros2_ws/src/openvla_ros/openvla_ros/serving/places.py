"""Who is served: a number of places for robots, and what happens when all are taken.

A robot on a websocket keeps its place while it is connected, a request over HTTP while it is answered. When
all are taken, a robot that does not answer a ping, or that has asked nothing for a while, gives way.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection

# A robot that does not answer a ping within this time is gone: its link may have died silently.
PING_S = 1.0
# A robot that has asked nothing for this time gives way to the next one; it may connect again.
SILENT_S = 10.0
# How long the next robot waits for a place to be given up.
HANDOVER_S = 5.0

_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class Robot:
    """A robot that is connected over a websocket."""

    connection: ServerConnection
    asked: float = field(default_factory=time.monotonic)  # when it last asked something

    def has_asked(self) -> None:
        """Note a whole message."""
        self.asked = time.monotonic()


class Places:
    """At most ``most`` robots at a time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._free = threading.Semaphore(most)
        self._robots: set[Robot] = set()
        self._taken = 0
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return self._taken

    @property
    def refusal(self) -> str:
        """What a robot is told that gets no place."""
        if self.most == 1:
            return "another robot is connected"
        return f"{self.most} robots are connected, and this server takes no more at once"

    def take(self, robot: Robot | None) -> bool:
        """Take a place for ``robot``, or for a request over HTTP; returns False if there is none.

        A request over HTTP that is being answered is waited for.
        """
        if not (self._free.acquire(blocking=False) or self._take_over()):
            return False
        with self._lock:
            self._taken += 1
            if robot is not None:
                self._robots.add(robot)
        return True

    def leave(self, robot: Robot | None) -> None:
        """Give the place back."""
        with self._lock:
            self._taken -= 1
            if robot is not None:
                self._robots.discard(robot)
        self._free.release()

    def _take_over(self) -> bool:
        with self._lock:
            robots = list(self._robots)
        given_up = _close_the_gone(robots)
        if not given_up and len(robots) == self.most:
            return False
        return self._free.acquire(timeout=HANDOVER_S)


def _close_the_gone(robots: list[Robot]) -> bool:
    """Close the connection of a robot that is gone or gives way; returns whether there was one.

    All are pinged at once. Of several that give way, the one goes that has been silent for longest.
    """
    pings = [(robot, _ping(robot)) for robot in robots]
    deadline = time.monotonic() + PING_S
    gone = [
        robot for robot, ping in pings if ping is None or not ping.wait(max(0.0, deadline - time.monotonic()))
    ]
    silent = min(robots, key=lambda robot: robot.asked, default=None)
    if not gone and silent is not None and time.monotonic() - silent.asked > SILENT_S:
        _LOG.warning("a robot that asked nothing for %.0f s gives way to another", SILENT_S)
        gone = [silent]
    for robot in gone:
        with suppress(OSError):
            robot.connection.socket.shutdown(socket.SHUT_RDWR)
    return bool(gone)


def _ping(robot: Robot) -> threading.Event | None:
    try:
        return robot.connection.ping()
    except (ConnectionClosed, OSError):
        return None
