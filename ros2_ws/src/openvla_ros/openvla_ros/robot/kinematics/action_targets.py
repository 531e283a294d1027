"""How an action becomes the next commanded target, and back: one class for each kind of action.

The targets of ``tool_delta`` and ``tool_pose`` actions are tool poses in the base frame, those of
``joint_delta`` and ``joint_position`` actions are joint positions. A change composes on the target before
it; a target ignores it. Knows no limits: those are checked where targets are executed.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from openvla_ros.errors import InvalidValueError
from openvla_ros.robot.kinematics.delta_actions import compose, delta_between
from openvla_ros.values.action import ActionSpace
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose
from openvla_ros.values.rotation_numbers import rotation_from_numbers, rotation_to_numbers


class ToolActions(Protocol):
    """Actions whose targets are tool poses."""

    def after(self, target: Pose, action: Float) -> Pose:
        """Return the target after ``action`` (D,), which follows ``target``; metres and radians.

        Raises ``InvalidValueError`` if the action's numbers are no rotation.
        """
        ...

    def between(self, before: Pose, after: Pose) -> Float:
        """Return the action (D - 1,), without the gripper, that leads from ``before`` to ``after``."""
        ...


class JointActions(Protocol):
    """Actions whose targets are joint positions (J,), radians."""

    def after(self, target: Float, action: Float) -> Float:
        """Return the target after ``action`` (J + 1,), which follows ``target``."""
        ...

    def between(self, before: Float, after: Float) -> Float:
        """Return the action (J,), without the gripper, that leads from ``before`` to ``after``."""
        ...


class ToolDeltas:
    """Changes of the tool pose, composed as BridgeData V2's are."""

    def __init__(self, space: ActionSpace) -> None:
        self._space = space

    def after(self, target: Pose, action: Float) -> Pose:
        """Return ``target`` moved and turned by ``action`` (7,)."""
        return compose(target, action, self._space)

    def between(self, before: Pose, after: Pose) -> Float:
        """Return the delta (6,) from ``before`` to ``after``."""
        return delta_between(before, after, self._space)


class ToolPoses:
    """Tool poses themselves, in the base frame."""

    def __init__(self, space: ActionSpace) -> None:
        self._rotation = space.rotation

    def after(self, target: Pose, action: Float) -> Pose:
        """Return the pose that ``action`` (D,) states; raises ``InvalidValueError`` if it has no rotation."""
        return Pose(action[:3], rotation_from_numbers(action[3:-1], self._rotation))

    def between(self, before: Pose, after: Pose) -> Float:
        """Return the pose ``after`` (D - 1,); of its two quaternions, the one nearer to ``before``'s."""
        numbers = rotation_to_numbers(after.rotation, self._rotation)
        if self._rotation == "quaternion_xyzw" and numbers @ before.quaternion < 0.0:
            numbers = -numbers
        return np.concatenate([after.position, numbers])


class JointDeltas:
    """Changes of the joint positions."""

    def after(self, target: Float, action: Float) -> Float:
        """Return ``target`` (J,) changed by ``action`` (J + 1,)."""
        changed: Float = target + action[:-1]
        return changed

    def between(self, before: Float, after: Float) -> Float:
        """Return the change (J,) from ``before`` to ``after``."""
        change: Float = after - before
        return change


class JointPositions:
    """Joint positions themselves."""

    def after(self, target: Float, action: Float) -> Float:
        """Return the positions (J,) that ``action`` (J + 1,) states."""
        return np.array(action[:-1])

    def between(self, before: Float, after: Float) -> Float:
        """Return ``after`` (J,)."""
        return after


def tool_actions(space: ActionSpace) -> ToolActions | None:
    """Return how actions of ``space`` become tool poses; None if their targets are joint positions."""
    match space.kind:
        case "tool_delta":
            return ToolDeltas(space)
        case "tool_pose":
            return ToolPoses(space)
        case _:
            return None


def joint_actions(space: ActionSpace) -> JointActions:
    """Return how actions of ``space`` become joint positions.

    Raises ``InvalidValueError`` if their targets are tool poses.
    """
    match space.kind:
        case "joint_delta":
            return JointDeltas()
        case "joint_position":
            return JointPositions()
        case _:
            raise InvalidValueError(
                f"the targets of {space.kind} actions are tool poses, not joint positions"
            )
