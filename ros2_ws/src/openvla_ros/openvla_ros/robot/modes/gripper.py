"""Converts an action's gripper value to open or closed, with hysteresis."""

from __future__ import annotations

from openvla_ros.profile import GripperProfile


class GripperSwitch:
    """Opens above the profile's threshold and closes below it, with hysteresis."""

    def __init__(self, gripper: GripperProfile) -> None:
        self._threshold, self._hysteresis = gripper.threshold, gripper.hysteresis
        self.opening: float | None = None  # 0 closed or 1 open; None before the first command

    def ask(self, opening: float) -> None:
        """Update with a commanded ``opening``, 0 (closed) .. 1 (open)."""
        margin = 0.0 if self.opening is None else self._hysteresis
        if opening > self._threshold + margin:
            self.opening = 1.0
        elif opening < self._threshold - margin or self.opening is None:
            self.opening = 0.0

    def forget(self) -> None:
        """Forget what was asked for, as after a start."""
        self.opening = None
