"""The robot's state as a vector, in the order that a dataset recorded it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from openvla_ros.errors import InvalidValueError, PolicyError
from openvla_ros.profile import RobotProfile
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import transform_euler_to_matrix, transform_matrix_to_euler
from openvla_ros.values.observation import Observation

StateLayout = Literal["pose_gripper", "joints_gripper"]
STATE_LAYOUTS: tuple[StateLayout, ...] = get_args(StateLayout)


def state_reader(layout: StateLayout, profile: RobotProfile) -> Callable[[Observation], Float]:
    """Return the function that extracts a state vector from an observation.

    ``pose_gripper`` is x, y, z in metres, roll, pitch, yaw in radians and the gripper opening, as in
    BridgeData V2 (angles from the profile's zero orientation); ``joints_gripper`` is the joint angles in
    radians and the opening. The function raises ``PolicyError`` if a part is missing.
    """
    zero = transform_euler_to_matrix(profile.arm.state_rotation_offset)

    def pose_gripper(observation: Observation) -> Float:
        if observation.pose is None or observation.gripper is None:
            raise PolicyError("the model needs the end-effector pose and the gripper opening; one is missing")
        angles = transform_matrix_to_euler(observation.pose.rotation @ zero.T)
        return np.concatenate([observation.pose.position, angles, [observation.gripper]])

    def joints_gripper(observation: Observation) -> Float:
        if observation.joint_positions is None or observation.gripper is None:
            raise PolicyError("the model needs the joint positions and the gripper opening; one is missing")
        return np.concatenate([observation.joint_positions, [observation.gripper]])

    match layout:
        case "pose_gripper":
            return pose_gripper
        case "joints_gripper":
            return joints_gripper
        case _:
            raise InvalidValueError(f"state layout {layout!r}; the choices are {', '.join(STATE_LAYOUTS)}")
