"""A 3Dconnexion SpaceMouse as a teleoperation device: its HID reports, or spacenav's topics.

The cap springs back when released, so deflection is the dead man's switch: no deflection, no command. The
cap's own axes are x right, y towards the person, z down (right-handed), for both motion and rotation;
REP-103's are x forward, y left, z up.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np

from openvla_ros.errors import DeviceError
from openvla_ros.teleop.command import Event, TeleopCommand, with_deadband
from openvla_ros.values.arrays import Float

FULL = 350.0  # counts at the end of an axis, of every model
DEADBAND = 0.08
# A cap that is deflected reports 60 times a second or more; silence means that it is at rest or gone.
SILENT_S = 0.3
VENDORS = (0x256F, 0x046D)  # 3Dconnexion, and Logitech for the older models
LOGITECH_MODELS = range(0xC603, 0xC653)
PRESSES: tuple[Event, ...] = ("frame", "gripper")
HELP = """push, pull, lift and turn the cap to move; release it to stop
left button: base or tool frame   right button: gripper"""


class SpaceMouseMap:
    """Turns deflections and buttons into commands; each press is one event."""

    help = HELP

    def __init__(self, deadband: float = DEADBAND) -> None:
        self._deadband = deadband
        self._buttons = 0

    def command(self, translation: Float, rotation: Float, buttons: int) -> TeleopCommand:
        """Return the command for deflections (3,) of -1 .. 1 in REP-103's axes and a mask of buttons."""
        pressed = buttons & ~self._buttons
        self._buttons = buttons
        events = tuple(event for bit, event in enumerate(PRESSES) if pressed >> bit & 1)
        move = np.array([with_deadband(float(v), self._deadband) for v in translation])
        turn = np.array([with_deadband(float(v), self._deadband) for v in rotation])
        if not move.any() and not turn.any():
            return TeleopCommand.released(events)
        return TeleopCommand(True, move, turn, events)


class SpaceMouseDevice:
    """A SpaceMouse's raw HID device (``/dev/hidraw0``), read without waiting.

    Report 1 has the motion (newer models: the rotation too), report 2 the rotation, report 3 the buttons;
    numbers are little-endian. Raises ``DeviceError`` if it cannot be opened or was disconnected.
    """

    help = HELP

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or find_spacemouse()
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise DeviceError(
                f"cannot open SpaceMouse {self._path}: {error.strerror}; a udev rule may be missing"
            ) from error
        self._map = SpaceMouseMap()
        self._motion, self._rotation = np.zeros(3), np.zeros(3)
        self._buttons = 0
        self._heard_s = 0.0

    def read(self, now_s: float) -> TeleopCommand:
        """Return the current command."""
        while report := self._report():
            self._heard_s = now_s
            self._take(report)
        if now_s - self._heard_s > SILENT_S:
            self._motion, self._rotation = np.zeros(3), np.zeros(3)
        return self._map.command(self._motion, self._rotation, self._buttons)

    def close(self) -> None:
        """Close the device. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _report(self) -> bytes | None:
        try:
            report = os.read(self._fd, 64)  # hidraw gives one report a read
        except BlockingIOError:
            return None
        except OSError as error:
            raise DeviceError(f"SpaceMouse {self._path} was disconnected: {error.strerror}") from error
        if not report:
            raise DeviceError(f"SpaceMouse {self._path} was disconnected")
        return report

    def _take(self, report: bytes) -> None:
        match report[0], len(report) - 1:
            case 1, size if size >= 12:
                self._motion, self._rotation = _axes(report, 1), _axes(report, 7)
            case 1, size if size >= 6:
                self._motion = _axes(report, 1)
            case 2, size if size >= 6:
                self._rotation = _axes(report, 1)
            case 3, size if size >= 1:
                self._buttons = int.from_bytes(report[1:5], "little")


def _axes(report: bytes, start: int) -> Float:
    """Return three counts as deflections -1 .. 1 in REP-103's axes."""
    right, back, down = struct.unpack_from("<3h", report, start)
    return np.clip(np.array([-back, -right, -down]) / FULL, -1.0, 1.0)


def find_spacemouse(system: Path = Path("/sys/class/hidraw")) -> Path:
    """Return the device of the first SpaceMouse; raises ``DeviceError`` if there is none."""
    for entry in sorted(system.glob("hidraw*")):
        event = entry / "device" / "uevent"
        if event.is_file() and _is_spacemouse(event.read_text(encoding="utf-8")):
            return Path("/dev") / entry.name
    raise DeviceError(f"no SpaceMouse among {system}/hidraw*; plug one in, or give its device path")


def _is_spacemouse(uevent: str) -> bool:
    for line in uevent.splitlines():
        if line.startswith("HID_ID="):  # bus:vendor:product, hexadecimal
            _, vendor, product = (int(part, 16) for part in line.removeprefix("HID_ID=").split(":"))
            return vendor == VENDORS[0] or (vendor == VENDORS[1] and product in LOGITECH_MODELS)
    return False
