"""A policy's input: one moment of the robot, live or recorded.

Live messages and recorded episodes are both converted to this value, by the same code. Knows nothing of
messages or models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from openvla_ros.errors import InvalidValueError
from openvla_ros.values.arrays import Float, Image, float_array, image_array
from openvla_ros.values.geometry import Pose


@dataclass(frozen=True, eq=False)
class Observation:
    """One moment: images, proprioception and the current instruction."""

    stamp_ns: int  # header stamp of the newest image, nanoseconds of the ROS clock
    images: Mapping[str, Image]  # camera name → uint8 (H, W, 3) RGB
    instruction: str
    joint_positions: Float | None = None  # (J,) radians, in the profile's joint order
    pose: Pose | None = None  # end effector in the base frame, metres
    gripper: float | None = None  # opening, 0 closed .. 1 open

    def __post_init__(self) -> None:
        if not self.images:
            raise InvalidValueError("an observation must contain at least one image")
        images = {name: image_array(name, image) for name, image in self.images.items()}
        object.__setattr__(self, "images", MappingProxyType(images))
        if not self.instruction.strip():
            raise InvalidValueError("an observation must contain an instruction; this one is empty")
        if self.joint_positions is not None:
            positions = float_array("joint positions", self.joint_positions, (None,))
            object.__setattr__(self, "joint_positions", positions)
        if self.gripper is not None and not 0.0 <= self.gripper <= 1.0:
            raise InvalidValueError(f"gripper opening is {self.gripper}; it must lie within 0 .. 1")
