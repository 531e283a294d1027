"""The hand of a simulated Franka arm, as libfranka's gripper commands drive it: move, grasp, homing, stop.

Widths are of the whole hand, both fingers, in metres; the gripper's joint is one finger, half of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from openvla_ros.profile import RobotProfile

Task = Literal["move", "grasp", "homing"]
ABORTED, FAILED = "libfranka gripper: Command aborted!", "libfranka gripper: Command failed!"
REACHED_M = 0.001  # of the width
# A hand that has not moved further than this for so long is stopped by what is between its fingers.
STILL_M, STILL_S = 0.0005, 0.3
SQUEEZE_M = 0.004  # of one finger: how far the commanded joint goes into what is held, for its force


@dataclass(frozen=True)
class Goal:
    """One command; ``inner`` and ``outer``: how much narrower or wider a grasped thing may be, metres."""

    task: Task
    width_m: float
    speed_m_s: float
    inner: float = 0.005
    outer: float = 0.005


@dataclass(frozen=True)
class Ending:
    """How a command ended; ``error`` is libfranka's text where it raises, else empty."""

    success: bool
    error: str = ""


class FrankaHand:
    """One finger's position, period by period."""

    def __init__(self, profile: RobotProfile, max_width_m: float | None = None) -> None:
        """Start open. ``max_width_m``: of the hand; by default twice the profile's open position."""
        self._closed_m, self._open_m = profile.gripper.closed_m, profile.gripper.open_m
        self.max_width_m = 2.0 * self._open_m if max_width_m is None else max_width_m
        self._finger_m = self._open_m
        self._goal: Goal | None = None
        self._still_s, self._still_at_m = 0.0, self._open_m
        self.ending: Ending | None = None  # of the newest command, once it has ended
        self.width_m = 2.0 * self._open_m  # measured

    def begin(self, goal: Goal) -> None:
        """Take a command; whatever was under way is aborted by it, as libfranka does."""
        self._goal, self.ending = None, None
        if not 0.0 <= goal.width_m <= self.max_width_m + 1e-9 or goal.speed_m_s <= 0.0:
            self.ending = Ending(False, FAILED)
            return
        self._goal = goal
        self._still_s, self._still_at_m = 0.0, self.width_m

    def stop(self) -> None:
        """Stay where the fingers are."""
        if self._goal is not None:
            self._goal, self.ending = None, Ending(False, ABORTED)
        self._finger_m = self.width_m / 2.0

    def sample(self, period_s: float, measured_m: float) -> float:
        """Return the finger's commanded position, metres; ``measured_m`` is where it is."""
        self.width_m = 2.0 * measured_m
        goal = self._goal
        if goal is not None:
            target_m = self._open_m if goal.task == "homing" else goal.width_m / 2.0
            step = goal.speed_m_s / 2.0 * period_s
            self._finger_m += float(np.clip(target_m - self._finger_m, -step, step))
            self._judge(goal, target_m, period_s)
        near = np.clip(self._finger_m, measured_m - SQUEEZE_M, measured_m + SQUEEZE_M)
        self._finger_m = float(np.clip(near, self._closed_m, self._open_m))
        return self._finger_m

    def _judge(self, goal: Goal, target_m: float, period_s: float) -> None:
        """End the command once the fingers have arrived, or something stops them."""
        arrived = abs(self.width_m - 2.0 * target_m) < REACHED_M
        if abs(self.width_m - self._still_at_m) > STILL_M:
            self._still_s, self._still_at_m = 0.0, self.width_m
        else:
            self._still_s += period_s
        if not arrived and self._still_s < STILL_S:
            return
        success = arrived
        if goal.task == "grasp":
            success = goal.width_m - goal.inner < self.width_m < goal.width_m + goal.outer
        self._goal, self.ending = None, Ending(success)
