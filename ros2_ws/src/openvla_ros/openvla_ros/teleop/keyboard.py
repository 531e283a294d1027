"""A terminal's keyboard as a teleoperation device.

A terminal reports key presses and auto-repeat, but never a release. So a key counts as held until auto-repeat
should have begun, and then from one repeat to the next: holding a key is the dead man's switch, and the
space bar releases at once.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from typing import TextIO

import numpy as np

from openvla_ros.errors import DeviceError
from openvla_ros.teleop.command import Event, TeleopCommand
from openvla_ros.teleop.typed_keys import ESCAPE, TypedKeys

# Auto-repeat begins after 0.25 to 0.66 s on common desktops, at 25 to 30 Hz.
FIRST_S, NEXT_S = 0.7, 0.15
MOVES = {
    "w": (0, 1), "s": (0, -1), "a": (1, 1), "d": (1, -1), "r": (2, 1), "f": (2, -1),
    "o": (3, 1), "u": (3, -1), "i": (4, 1), "k": (4, -1), "j": (5, 1), "l": (5, -1),
}  # fmt: skip
PRESSES: dict[str, Event] = {
    "g": "gripper", "t": "frame", "+": "faster", "=": "faster", "-": "slower", "b": "give_back",
    "h": "hold", ESCAPE: "hold", "x": "e_stop",
    "1": "start", "2": "success", "3": "failure", "4": "discard", "5": "rerecord",
}  # fmt: skip
HELP = """hold to move   w s forward, back   a d left, right   r f up, down
               i k pitch   j l yaw   u o roll   space: release
g gripper   t base or tool frame   + - speed   b hand back to the policy   h or Esc hold   x EMERGENCY STOP
1 start recording   2 success   3 failure   4 discard   5 re-record"""


class KeyboardMap:
    """Turns characters into commands; knows no terminal."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}  # key → when it counts as released

    def feed(self, text: str, now_s: float) -> TeleopCommand:
        """Return the command at ``now_s`` after ``text`` was typed."""
        events = []
        for key in text.lower():
            if key == " ":
                self._until.clear()
            elif key in MOVES:
                repeated = self._until.get(key, 0.0) > now_s
                self._until[key] = now_s + (NEXT_S if repeated else FIRST_S)
            elif key in PRESSES:
                events.append(PRESSES[key])
        deflection = np.zeros(6)
        held = [key for key, until in self._until.items() if until > now_s]
        for key in held:
            axis, sign = MOVES[key]
            deflection[axis] += sign
        return TeleopCommand(bool(held), deflection[:3], deflection[3:], tuple(events))


class Keyboard:
    """The terminal ``stream``, unbuffered and without echo until ``close``.

    Raises ``DeviceError`` if it is not a terminal.
    """

    help = HELP

    def __init__(self, stream: TextIO | None = None) -> None:
        source = stream or sys.stdin
        if not source.isatty():
            raise DeviceError("the keyboard needs a terminal: don't run this in a pipe or a service")
        self._fd = source.fileno()
        self._before = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd)
        self._map = KeyboardMap()
        self._keys = TypedKeys()
        self._closed = False

    def read(self, now_s: float) -> TeleopCommand:
        """Return the current command."""
        return self._map.feed(self.typed(), now_s)

    def typed(self) -> str:
        """Return the characters that were typed since the last call; arrows and the like type none."""
        text = b""
        while select.select([self._fd], [], [], 0)[0]:
            part = os.read(self._fd, 256)
            if not part:
                raise DeviceError("the terminal was closed")
            text += part
        return self._keys.feed(text.decode(errors="ignore"), time.monotonic())

    def close(self) -> None:
        """Restore the terminal's settings. Safe to call twice."""
        if not self._closed:
            self._closed = True
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
