"""Robot profiles whose action space is of any kind, and actions for them."""

from dataclasses import replace
from itertools import pairwise

import numpy as np

from openvla_ros.data.episodes.converted_actions import ActionConversion, ActionConverter
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.kinematics.action_targets import joint_actions, tool_actions
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.values.action import ROTATIONS

SPACES = [(kind, rotation) for kind, rotations in ROTATIONS.items() for rotation in rotations]
NEW_SPACES = [space for space in SPACES if space[0] != "tool_delta"]
LARGEST_STEP_M, LARGEST_STEP_RAD = 0.05, 0.25


def in_space(profile: RobotProfile, kind: str, rotation: str) -> RobotProfile:
    """Return ``profile`` with actions of another kind, whose bounds leave room for every target."""
    space = ActionConverter(profile).space(ActionConversion(profile, kind, rotation), profile.space())
    lower, upper = space.lower.copy(), space.upper.copy()
    if kind == "joint_delta":
        lower[:-1], upper[:-1] = -LARGEST_STEP_RAD, LARGEST_STEP_RAD
    elif kind == "tool_delta":
        lower[:3], upper[:3] = -LARGEST_STEP_M, LARGEST_STEP_M
        lower[3:6], upper[3:6] = -LARGEST_STEP_RAD, LARGEST_STEP_RAD
    return replace(
        profile,
        action_space=replace(
            profile.action_space,
            names=space.names, units=space.units, frame=space.frame, rotation=space.rotation, kind=kind,
            lower=tuple(np.round(lower, 12).tolist()), upper=tuple(np.round(upper, 12).tolist()),
            largest_step_m=LARGEST_STEP_M if kind == "tool_pose" else None,
            largest_step_rad=LARGEST_STEP_RAD if space.is_absolute else None,
        ),
    )  # fmt: skip


class Speaker:
    """Says in the words of a robot's action space where the joints should go."""

    def __init__(self, profile: RobotProfile) -> None:
        self.space = profile.space()
        self.chain = KinematicChain.from_profile(profile.arm)
        self._tool = tool_actions(self.space)

    def action(self, before: np.ndarray, after: np.ndarray, gripper: float = 1.0) -> np.ndarray:
        """Return the action (D,) that leads from joints ``before`` to ``after`` (J,)."""
        if self._tool is not None:
            here, there = self.chain.forward(before), self.chain.forward(after)
            return np.append(self._tool.between(here, there), gripper)
        return np.append(joint_actions(self.space).between(before, after), gripper)

    def walk(self, places: np.ndarray) -> np.ndarray:
        """Return the actions (T, D) that lead through joints ``places`` (T + 1, J)."""
        return np.array([self.action(a, b) for a, b in pairwise(places)])
