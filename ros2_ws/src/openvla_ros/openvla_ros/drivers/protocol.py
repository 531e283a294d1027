"""The protocols of drivers, and their commands: a sample of the arm's motion, a gripper opening."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from openvla_ros.robot.motion.motion_limiter import JointMotion
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose


@dataclass(frozen=True, eq=False)
class ArmCommand:
    """Where the arm should be one period from now, within the profile's limits."""

    stamp_ns: int  # ROS clock, nanoseconds; evenly spaced from command to command
    period_s: float  # until the next command is due
    motion: JointMotion  # (J,) rad, rad/s, rad/s²
    pose: Pose  # of the tool at ``motion``, in the base frame
    measured: Float  # (J,) rad, the joints as last reported

    @property
    def active(self) -> bool:
        """Whether the arm is being moved rather than held still."""
        return not self.motion.is_at_rest


@dataclass(frozen=True)
class GripperCommand:
    """The commanded gripper opening, and the measured one."""

    stamp_ns: int  # ROS clock, nanoseconds
    opening: float  # 0 closed .. 1 open
    measured_m: float | None  # of the gripper's joint; None where the robot does not report it


class ArmDriver(Protocol):
    """Sends commands to the arm's own software."""

    def missing(self) -> str | None:
        """Return what is missing on the robot's side right now, or ``None``. Sends nothing."""
        ...

    def connect(self) -> str | None:
        """Establish the connection as far as possible; return what is still missing, or ``None``.

        Never blocks. Called about once a second on the executor's thread, before and while running. A
        problem although nothing is ``missing`` means that the arm must not be moved through this driver:
        the controller stops and sends nothing until it is over.
        """
        ...

    def send(self, command: ArmCommand) -> None:
        """Send one command. Called at the control rate, on the control thread, so it must not block.

        Args:
            command: Where the arm should be one period after ``command.stamp_ns``: joints (J,) in rad, rad/s
                and rad/s², and the tool's pose there. Its arrays are read-only.
        """
        ...

    def delivered(self, timeout_s: float) -> bool:
        """Wait until the robot has received the last command.

        Called once, after the last command: when a process ends, whatever has not arrived is lost.

        Args:
            timeout_s: How long to wait at most, seconds.

        Returns:
            Whether it has been received.
        """
        ...


class GripperDriver(Protocol):
    """Sends commands to the gripper's own software."""

    def missing(self) -> str | None:
        """As ``ArmDriver.missing``."""
        ...

    def connect(self) -> str | None:
        """As ``ArmDriver.connect``."""
        ...

    def send(self, command: GripperCommand) -> None:
        """Send one command. Called 50 times a second on the executor's thread.

        Drivers skip commands that change nothing.
        """
        ...
