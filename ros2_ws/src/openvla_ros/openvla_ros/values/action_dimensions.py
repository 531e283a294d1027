"""The dimensions of each kind of action: what they are called, and their units, in order.

No name means two things: a chunk of one kind, or with one rotation convention, is never taken for another.
The exception are deltas, whose rotation is called roll, pitch, yaw in both of its conventions.
"""

from __future__ import annotations

from collections.abc import Sequence

from openvla_ros.values.action import ActionKind
from openvla_ros.values.rotation_numbers import ROTATION_NAMES, RotationConvention

GRIPPER = "gripper"
DELTA_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", GRIPPER)
POSE_PREFIX, JOINT_DELTA_PREFIX = "tool_", "delta_"
_ANGLES: tuple[RotationConvention, ...] = ("euler_xyz", "rotation_vector")


def dimension_names(kind: ActionKind, rotation: RotationConvention, joints: Sequence[str]) -> tuple[str, ...]:
    """Return the names (D,) of actions of ``kind`` for an arm with ``joints``, base to tip."""
    match kind:
        case "tool_delta":
            return DELTA_NAMES
        case "tool_pose":
            motion = (*"xyz", *ROTATION_NAMES[rotation])
            return (*(POSE_PREFIX + name for name in motion), GRIPPER)
        case "joint_delta":
            return (*(JOINT_DELTA_PREFIX + name for name in joints), GRIPPER)
        case "joint_position":
            return (*joints, GRIPPER)


def dimension_units(
    kind: ActionKind, rotation: RotationConvention, joint_units: Sequence[str]
) -> tuple[str, ...]:
    """Return the units (D,) of actions of ``kind``; ``joint_units`` are ``rad``, or ``m`` for a slide."""
    match kind:
        case "tool_delta":
            return ("m", "m", "m", "rad", "rad", "rad", "1")
        case "tool_pose":
            unit = "rad" if rotation in _ANGLES else "1"
            return ("m", "m", "m", *(unit,) * len(ROTATION_NAMES[rotation]), "1")
        case "joint_delta" | "joint_position":
            return (*joint_units, "1")
