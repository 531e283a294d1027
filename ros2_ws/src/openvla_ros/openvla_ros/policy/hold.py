"""A policy that never moves: for tests, benchmarks, and trying out the pipeline without a model."""

from __future__ import annotations

import numpy as np

from openvla_ros.values.action import ActionChunk, ActionSpace
from openvla_ros.values.observation import Observation


class HoldPolicy:
    """Commands no motion, and keeps the gripper as observed (open if the observation lacks it)."""

    description = "hold: commands no motion"

    def __init__(self, space: ActionSpace) -> None:
        self._space = space

    @property
    def space(self) -> ActionSpace:
        """The robot's own action space."""
        return self._space

    def infer(self, observation: Observation) -> ActionChunk:
        """Return one step of zeros, with the gripper where it is."""
        opening = 1.0 if observation.gripper is None else observation.gripper
        action = np.zeros((1, self._space.width))
        action[0, -1] = opening if self._space.gripper_open == 1.0 else 1.0 - opening
        return ActionChunk(action, observation.stamp_ns, self._space)

    def reset(self) -> None:
        """Do nothing: no state is kept between instructions."""

    def close(self) -> None:
        """Do nothing: there is nothing to release."""
