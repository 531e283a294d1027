"""Whether the robot's side of the arm and of the gripper is there, in the log and in ``/diagnostics``."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.node import Node

from openvla_ros.drivers.protocol import ArmDriver, GripperDriver
from openvla_ros.profile import RobotProfile
from openvla_ros.values.health import Health, Level

# How long the robot's side may take to start beside this process before its absence is worth a warning.
CONNECT_S = 15.0


class DriverLinks:
    """Connects both drivers and says what keeps them from it."""

    def __init__(
        self,
        node: Node,
        profile: RobotProfile,
        arm: ArmDriver,
        gripper: GripperDriver,
        heed: Callable[[str | None], None],
    ) -> None:
        """``heed`` is told why the arm must not be moved through its driver, and None once it may be."""
        self._logger, self._heed = node.get_logger(), heed
        self._arm = arm
        self._unusable: str | None = None
        self._drivers: dict[str, ArmDriver | GripperDriver] = {"arm": arm, "gripper": gripper}
        self._kinds: dict[str, str] = {
            "arm": profile.arm_backend.kind,
            "gripper": profile.gripper_backend.kind,
        }
        self._problems: dict[str, str | None] = dict.fromkeys(self._drivers, "not looked for yet")
        self._said: dict[str, str | None] = {}  # what the log says of each part
        self._started_s = time.monotonic()

    def connect(self) -> None:
        """Look for the robot's side of each driver; log what has changed."""
        for part, driver in self._drivers.items():
            self._problems[part] = problem = driver.connect()
            if driver is self._arm:
                self._judge(problem)
            starting = part not in self._said and time.monotonic() - self._started_s < CONNECT_S
            if problem != self._said.get(part, "") and not (problem and starting):
                self._said[part] = problem
                text = f"{part}: {problem or 'connected'}"
                # One call site a severity: rclpy refuses the same line with another.
                if problem:
                    self._logger.warning(text)
                else:
                    self._logger.info(text)

    def _judge(self, problem: str | None) -> None:
        """Tell whether the arm may be moved; one whose driver is missing does not move by itself."""
        unusable = problem if problem and self._arm.missing() is None else None
        if unusable != self._unusable:
            self._unusable = unusable
            self._heed(unusable)

    def healths(self) -> list[Health]:
        """Return one value for each part."""
        healths = []
        for part, problem in self._problems.items():
            level: Level = "error" if problem else "ok"
            values = {"kind": self._kinds[part]}
            healths.append(Health(f"{part} back end", level, problem or "connected", values))
        return healths
