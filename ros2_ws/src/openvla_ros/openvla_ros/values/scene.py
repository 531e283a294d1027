"""Ground truth of the scene: the objects' names, poses, colours and sizes, and the tool.

A ``Scene`` is privileged: only a simulator or a tracking system knows it. The scripted expert and
the success detectors read it; learned policies never see it. Knows nothing of MuJoCo or messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from openvla_ros.errors import InvalidValueError
from openvla_ros.values.arrays import Float, float_array
from openvla_ros.values.geometry import Pose

Shape = Literal["cube", "plate", "bowl"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
BOWL_FLOOR_M = 0.003  # height of a bowl's inside above what it stands on
RESTING_TOLERANCE_M = 0.008  # between an object's lower face and what it rests on


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One object; ``name`` is its name in instructions, such as "red cube"."""

    name: str
    shape: Shape
    pose: Pose  # of its centre in the base frame of the arm
    size: Float  # (3,) metres along its own axes
    colour: Float  # (3,) red, green, blue, 0..1

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", float_array(f"size of {self.name!r}", self.size, (3,)))
        object.__setattr__(self, "colour", float_array(f"colour of {self.name!r}", self.colour, (3,)))

    @property
    def position(self) -> Float:
        """The centre (3,) in the base frame, metres."""
        return self.pose.position

    @property
    def top_m(self) -> float:
        """Height of the upper face while the object stands upright, base frame, metres."""
        return float(self.pose.position[2] + self.size[2] / 2.0)


@dataclass(frozen=True, eq=False)
class Scene:
    """All objects at one moment, with the tool and the gripper."""

    stamp_ns: int
    objects: tuple[SceneObject, ...]
    tool: Pose  # tool point in the base frame
    gripper: float  # opening, 0 closed .. 1 open
    table_m: float  # height of the table's top in the base frame

    def __post_init__(self) -> None:
        names = [item.name for item in self.objects]
        if len(set(names)) != len(names):
            raise InvalidValueError(f"scene objects {names} must have different names")

    def __getitem__(self, name: str) -> SceneObject:
        """Return the object called ``name``; raises ``InvalidValueError`` listing the existing names."""
        for item in self.objects:
            if item.name == name:
                return item
        raise InvalidValueError(
            f"no object {name!r} in the scene; it has {', '.join(o.name for o in self.objects)}"
        )

    def stands_on(self, name: str, place: str) -> bool:
        """Return whether one object rests on another, or inside it if that is a bowl.

        Args:
            name: The object.
            place: What it should stand on.

        Raises:
            InvalidValueError: There is no such object; lists the existing ones.
        """
        item, below = self[name], self[place]
        aside = float(np.linalg.norm(item.position[:2] - below.position[:2]))
        floor = self.table_m + BOWL_FLOOR_M if below.shape == "bowl" else below.top_m
        above = float(item.position[2] - item.size[2] / 2.0) - floor
        return aside < below.size[0] / 2.0 and abs(above) < RESTING_TOLERANCE_M
