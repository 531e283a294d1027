"""The selection of recorded steps that a run learns from."""

from __future__ import annotations

import math
from dataclasses import dataclass

from openvla_ros.errors import InvalidValueError


@dataclass(frozen=True)
class Selection:
    """Which steps to learn from."""

    camera: str | None = None  # None: the first one of every episode
    idle_m: float = 1e-4  # a step below both, without gripper motion, teaches the policy not to move
    idle_rad: float = 1e-4
    keep_failures: bool = False  # episodes whose outcome is "failure"
    keep_policy_steps: bool = False  # the policy's own steps in episodes in which a person took over
    validation_share: float = 0.05  # of the episodes
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.validation_share < 1.0:
            raise InvalidValueError(
                f"validation_share is {self.validation_share}; it must be at least 0 and below 1"
            )
        for name in ("idle_m", "idle_rad"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise InvalidValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
