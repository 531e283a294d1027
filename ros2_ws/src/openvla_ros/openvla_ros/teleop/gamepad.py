"""A gamepad as a teleoperation device: from a ``joy`` message or from the kernel's joystick device.

Axes and buttons are numbered as ``joy_node`` numbers those of an Xbox-like pad, left and up
positive; the kernel's own numbering (https://docs.kernel.org/input/joydev/joystick-api.html) is the
same with the signs the other way round.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openvla_ros.errors import DeviceError
from openvla_ros.teleop.command import Event, TeleopCommand, with_deadband

DEADBAND = 0.1
EVENT = struct.Struct("<IhBB")  # time ms, value, type, number
_BUTTON, _AXIS = 0x01, 0x02  # 0x80 added: the initial state, not a change
_FULL = 32767
HELP = """hold LB to move   left stick forward, back, left, right   triggers RT up, LT down
                  right stick pitch, yaw   cross left, right: roll
A gripper   Y base or tool frame   cross up, down: speed   B hand back to the policy
X start recording, again: success   BACK discard   START failure   GUIDE emergency stop"""


@dataclass(frozen=True)
class GamepadLayout:
    """The mapping of axes and buttons."""

    left_x: int = 0
    left_y: int = 1
    left_trigger: int = 2
    right_x: int = 3
    right_y: int = 4
    right_trigger: int = 5
    cross_x: int = 6
    cross_y: int = 7
    dead_man: int = 4  # LB
    presses: tuple[tuple[int, Event], ...] = (
        (0, "gripper"),
        (3, "frame"),
        (1, "give_back"),
        (2, "start"),
        (6, "discard"),
        (7, "failure"),
        (8, "e_stop"),
    )


class GamepadMap:
    """Turns the state of axes and buttons into commands; each press is one event."""

    def __init__(self, layout: GamepadLayout | None = None, deadband: float = DEADBAND) -> None:
        self._layout, self._deadband = layout or GamepadLayout(), deadband
        self._buttons: list[int] | None = None
        self._cross = 0.0
        self._moved: set[int] = set()  # triggers rest at 1 but read 0 until they are first touched

    def command(self, axes: Sequence[float], buttons: Sequence[int]) -> TeleopCommand:
        """Return the command for ``axes`` (-1 .. 1) and ``buttons`` (0 or 1)."""
        layout = self._layout

        def axis(number: int) -> float:
            return with_deadband(float(axes[number]), self._deadband) if number < len(axes) else 0.0

        held = layout.dead_man < len(buttons) and bool(buttons[layout.dead_man])
        up = self._trigger(axes, layout.right_trigger) - self._trigger(axes, layout.left_trigger)
        move = np.array([axis(layout.left_y), axis(layout.left_x), up])
        turn = np.array([-axis(layout.cross_x), axis(layout.right_y), axis(layout.right_x)])
        events = (*self._presses(buttons), *self._speed(axis(layout.cross_y)))
        if not held:
            return TeleopCommand.released(events)
        return TeleopCommand(True, np.clip(move, -1, 1), np.clip(turn, -1, 1), events)

    def _trigger(self, axes: Sequence[float], number: int) -> float:
        """Return how far a trigger is pulled, 0 .. 1."""
        if number >= len(axes):
            return 0.0
        if axes[number] != 0.0:
            self._moved.add(number)
        return with_deadband((1.0 - axes[number]) / 2.0, self._deadband) if number in self._moved else 0.0

    def _presses(self, buttons: Sequence[int]) -> list[Event]:
        before, self._buttons = self._buttons, list(buttons)
        if before is None:  # what is down when the device is opened was not pressed for us
            return []
        return [
            event
            for number, event in self._layout.presses
            if number < len(buttons) and buttons[number] and not (number < len(before) and before[number])
        ]

    def _speed(self, cross: float) -> list[Event]:
        before, self._cross = self._cross, cross
        if before == 0.0 and cross != 0.0:
            return ["faster" if cross > 0 else "slower"]
        return []


class JoystickDevice:
    """A kernel joystick (``/dev/input/js0``), read without waiting.

    The kernel only reports changes, after the initial state; unplugging the pad makes ``read`` raise
    ``DeviceError``.
    """

    help = HELP

    def __init__(self, path: Path | None = None, layout: GamepadLayout | None = None) -> None:
        self._path = path or _first_joystick()
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise DeviceError(f"cannot open gamepad {self._path}: {error.strerror}") from error
        self._map = GamepadMap(layout)
        self._axes: dict[int, float] = {}
        self._buttons: dict[int, int] = {}
        self._rest = b""

    def read(self, now_s: float) -> TeleopCommand:
        """Return the current command."""
        for _, value, kind, number in EVENT.iter_unpack(self._events()):
            if kind & _BUTTON:
                self._buttons[number] = int(value != 0)
            elif kind & _AXIS:
                self._axes[number] = -value / _FULL
        axes = [self._axes.get(n, 0.0) for n in range(max(self._axes, default=-1) + 1)]
        buttons = [self._buttons.get(n, 0) for n in range(max(self._buttons, default=-1) + 1)]
        return self._map.command(axes, buttons)

    def close(self) -> None:
        """Close the device. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _events(self) -> bytes:
        """Return all complete pending events."""
        data = self._rest
        while True:
            try:
                part = os.read(self._fd, 64 * EVENT.size)
            except BlockingIOError:
                break
            except OSError as error:
                raise DeviceError(f"gamepad {self._path} was disconnected: {error.strerror}") from error
            if not part:
                raise DeviceError(f"gamepad {self._path} was disconnected")
            data += part
        whole = len(data) - len(data) % EVENT.size
        self._rest = data[whole:]
        return data[:whole]


def _first_joystick() -> Path:
    found = sorted(Path("/dev/input").glob("js*")) if Path("/dev/input").is_dir() else []
    if not found:
        raise DeviceError("no gamepad: there is no /dev/input/js*; plug one in, or give its device path")
    return found[0]
