"""The parts of a state vector as other programs order and sign them, both directions.

A part is one run of numbers: joints, a pose, a gripper. ``observation_map`` says which parts a key holds.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from openvla_ros.errors import PolicyError
from openvla_ros.profile import RobotProfile
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose, transform_euler_to_matrix
from openvla_ros.values.observation import Observation
from openvla_ros.values.rotation_numbers import (
    ROTATION_NAMES,
    RotationConvention,
    rotation_from_numbers,
    rotation_to_numbers,
)

# joints: radians, in the profile's order. pose_*: x, y, z in metres, then roll, pitch, yaw, a rotation
# vector or a quaternion x, y, z, w, from the profile's zero orientation. tool_euler: as pose_euler, but as in
# tf, without that zero: the state in this package's LeRobot exports. gripper_open: 0 closed .. 1 open;
# gripper_closed: 0 open .. 1 closed.
StatePart = Literal[
    "joints", "pose_euler", "pose_rotation_vector", "pose_quaternion", "tool_euler", "gripper_open",
    "gripper_closed",
]  # fmt: skip
STATE_PARTS: tuple[StatePart, ...] = get_args(StatePart)
# What of an observation a part fills.
FIELD_OF: dict[StatePart, str] = {
    part: {"joints": "joint_positions", "gripper": "gripper"}.get(part.split("_")[0], "pose")
    for part in STATE_PARTS
}


_ROTATIONS: dict[str, RotationConvention] = {
    "pose_euler": "euler_xyz",
    "pose_rotation_vector": "rotation_vector",
    "pose_quaternion": "quaternion_xyzw",
    "tool_euler": "euler_xyz",
}


def part_width(part: StatePart, profile: RobotProfile) -> int:
    """Return how many numbers ``part`` takes."""
    if part == "joints":
        return len(profile.arm.joints)
    return 3 + len(ROTATION_NAMES[_ROTATIONS[part]]) if part in _ROTATIONS else 1


def part_to_numbers(part: StatePart, observation: Observation, profile: RobotProfile) -> Float:
    """Return ``part`` of ``observation``; raises ``PolicyError`` if the observation lacks it."""
    value: Any = getattr(observation, FIELD_OF[part])
    if value is None:
        raise PolicyError(f"the state part {part!r} needs {FIELD_OF[part]}, which the observation lacks")
    if part == "joints":
        return np.asarray(value)
    if part in _ROTATIONS:
        turned = value.rotation @ _zero(part, profile).T
        return np.concatenate([value.position, rotation_to_numbers(turned, _ROTATIONS[part])])
    return np.array([value if part == "gripper_open" else 1.0 - value])


def part_from_numbers(part: StatePart, numbers: Float, profile: RobotProfile) -> tuple[str, Any]:
    """Return the field of an observation that ``numbers`` (N,) fill, and its value.

    Raises ``InvalidValueError`` if the numbers of a pose are no rotation.
    """
    if part == "joints":
        return FIELD_OF[part], numbers
    if part in _ROTATIONS:
        rotation = rotation_from_numbers(numbers[3:], _ROTATIONS[part]) @ _zero(part, profile)
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = rotation, numbers[:3]
        return FIELD_OF[part], Pose.from_matrix(matrix)
    opening = float(numbers[0])
    return FIELD_OF[part], opening if part == "gripper_open" else 1.0 - opening


def _zero(part: StatePart, profile: RobotProfile) -> Float:
    if part == "tool_euler":
        return np.eye(3)
    return transform_euler_to_matrix(profile.arm.state_rotation_offset)
