"""What the driver needs of a Franka arm and its hand; ``franky_arm.py`` provides it through franky.

A call raises ``ArmLostError`` once the connection is gone; the object is of no use from then on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from openvla_ros.errors import DeviceError
from openvla_ros.values.arrays import Float

IDLE_MODE = "Idle"  # libfranka's name of the mode in which an arm takes commands


class ArmLostError(DeviceError):
    """The connection to the arm or its hand is gone, or was never made."""


@dataclass(frozen=True, eq=False)
class ArmState:
    """What the arm reported last."""

    position: Float  # (7,) rad
    velocity: Float  # (7,) rad/s
    effort: Float  # (7,) N m
    wrench: Float  # (6,) N and N m, external, at the stiffness frame, in axes of the base
    mode: str  # libfranka's RobotMode: Idle, Move, Guiding, Reflex, UserStopped, Other, ...
    errors: str  # libfranka's names of what keeps the arm from moving; empty: nothing
    success_rate: float  # share of the last 100 commands that the arm's controller received in time


class FrankaArm(Protocol):
    """An arm that is connected."""

    def state(self) -> ArmState:
        """Return the newest state; waits a few milliseconds for one while nothing is controlled."""
        ...

    def start(self) -> None:
        """Begin joint impedance control where the arm stands."""
        ...

    def refer(self, position: Float, velocity: Float) -> None:
        """Set what is tracked: joint positions (7,) rad and velocities (7,) rad/s. Never blocks."""
        ...

    def end(self) -> None:
        """Let the impedance control damp the arm to rest and end; never blocks, see ``in_control``."""
        ...

    @property
    def in_control(self) -> bool:
        """Whether the impedance control, or its end, is running."""
        ...

    def failure(self) -> str:
        """Return why control ended, in libfranka's words; empty if it was ended in order."""
        ...

    def recover(self) -> None:
        """Recover from a reflex or an error. Blocks for seconds. Raises ``DeviceError`` if refused."""
        ...


class FrankaHand(Protocol):
    """A hand that is connected. Its commands block until they are done."""

    def width_m(self) -> float:
        """Return the distance between the fingers, metres; while a command runs, too."""
        ...

    def move(self, width_m: float, speed_m_s: float) -> bool:
        """Position the fingers; return whether they got there."""
        ...

    def grasp(self, width_m: float, speed_m_s: float, force_n: float, tolerance_m: float) -> bool:
        """Close with a force; return whether what is held is within ``tolerance_m`` of ``width_m``."""
        ...
