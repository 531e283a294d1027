"""Commands from any teleoperation device: directions as fractions of full speed, and key presses.

Directions are in the frame that the operator has chosen, x forward, y left, z up (REP-103).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np

from openvla_ros.errors import InvalidValueError
from openvla_ros.values.arrays import Float, float_array

Event = Literal[
    "gripper",  # open what is closed, close what is open
    "frame",  # from the base's axes to the tool's, or back
    "faster",
    "slower",
    "give_back",  # to the policy
    "hold",
    "e_stop",
    "start",
    "success",
    "failure",
    "discard",
    "rerecord",
]
EVENTS: tuple[Event, ...] = get_args(Event)


@dataclass(frozen=True, eq=False)
class TeleopCommand:
    """One reading of a device. ``held`` is the dead man's switch: without it nothing moves."""

    held: bool
    translation: Float  # (3,) shares of full speed, -1 .. 1
    rotation: Float  # (3,) about the axes, shares of full speed, -1 .. 1
    events: tuple[Event, ...] = ()
    gripper: float | None = None  # opening 0 .. 1, of a device with its own gripper

    def __post_init__(self) -> None:
        for name in ("translation", "rotation"):
            array = float_array(f"teleoperation {name}", getattr(self, name), (3,))
            if np.abs(array).max() > 1.0 + 1e-9:
                raise InvalidValueError(f"teleoperation {name} {array} must lie within -1 .. 1")
            object.__setattr__(self, name, array)
        unknown = [event for event in self.events if event not in EVENTS]
        if unknown:
            raise InvalidValueError(f"teleoperation events {unknown}: choose from {', '.join(EVENTS)}")

    @classmethod
    def released(cls, events: tuple[Event, ...] = ()) -> TeleopCommand:
        """Return the command for a released dead man's switch."""
        return cls(False, np.zeros(3), np.zeros(3), events)


class Device(Protocol):
    """A teleoperation device. Reading never blocks."""

    @property
    def help(self) -> str:
        """Help text: what each key or axis does."""
        ...

    def read(self, now_s: float) -> TeleopCommand:
        """Return the command at ``now_s`` on the monotonic clock; each event is returned once.

        Raises ``DeviceError`` if the device was disconnected.
        """
        ...

    def close(self) -> None:
        """Release the device."""
        ...


def with_deadband(value: float, band: float) -> float:
    """Return an axis of -1 .. 1 that is zero within ``band`` and still reaches its ends."""
    if abs(value) <= band:
        return 0.0
    share = (min(abs(value), 1.0) - band) / (1.0 - band)
    return share if value > 0 else -share
