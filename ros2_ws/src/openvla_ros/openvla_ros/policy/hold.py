"""A policy that never moves: for tests, benchmarks, and trying out the pipeline without a model."""

from __future__ import annotations

import numpy as np

from openvla_ros.errors import PolicyError
from openvla_ros.values.action import ActionChunk, ActionSpace
from openvla_ros.values.arrays import Float
from openvla_ros.values.observation import Observation
from openvla_ros.values.rotation_numbers import rotation_to_numbers


class HoldPolicy:
    """Commands no motion, and keeps the gripper as observed (open if the observation lacks it)."""

    description = "hold: commands no motion"

    def __init__(self, space: ActionSpace) -> None:
        self._space = space
        self._target: Float | None = None

    @property
    def space(self) -> ActionSpace:
        """The robot's own action space."""
        return self._space

    def infer(self, observation: Observation) -> ActionChunk:
        """Return one step without a change, or where the arm was first, with the gripper where it is.

        Raises ``PolicyError`` if the action must state where the arm is and the observation does not.
        """
        opening = 1.0 if observation.gripper is None else observation.gripper
        if self._target is None:
            self._target = self._still(observation)
        gripper = opening if self._space.gripper_open == 1.0 else 1.0 - opening
        return ActionChunk(np.append(self._target, gripper)[None], observation.stamp_ns, self._space)

    def reset(self) -> None:
        """Hold from the next observation on."""
        self._target = None

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _still(self, observation: Observation) -> Float:
        """Return the action (D - 1,) that leaves the arm where it is."""
        if not self._space.is_absolute:
            return np.zeros(self._space.width - 1)
        if self._space.kind == "joint_position":
            if observation.joint_positions is None:
                raise PolicyError("holding joint positions needs them in the observation")
            return np.array(observation.joint_positions)
        if observation.pose is None:
            raise PolicyError("holding a tool pose needs it in the observation")
        numbers = rotation_to_numbers(observation.pose.rotation, self._space.rotation)
        return np.concatenate([observation.pose.position, numbers])
