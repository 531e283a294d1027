"""The result of one control period of a mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from openvla_ros.robot.motion.motion_limiter import JointMotion
from openvla_ros.values.verdict import SafetyVerdict

End = Literal["done", "interrupted"]


@dataclass(frozen=True, eq=False)
class Progress:
    """Where a mode moves the commanded joints in one period, and whether it is over with that."""

    motion: JointMotion | None  # None: the joints go along their stop instead
    verdict: SafetyVerdict | None = None  # valid from this period on; None: the previous one stays
    end: End | None = None  # None: the mode goes on; otherwise ``verdict`` says why it is over
    moved_s: float = 0.0  # for how long a step of a chunk was under way

    @classmethod
    def interrupted(cls, why: SafetyVerdict, moved_s: float = 0.0) -> Progress:
        """Return the progress of a mode that must stop, for the reason of ``why``."""
        return cls(None, why, "interrupted", moved_s)
