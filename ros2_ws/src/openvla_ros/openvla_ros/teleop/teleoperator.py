"""Converts a teleoperation command to one action in the robot's action space.

The same space, bounds and step as a policy's, so that the controller treats both alike and a demonstration
can be used directly as training data. Pure: no device, no clock, no messages.
"""

from __future__ import annotations

import numpy as np

from openvla_ros.robot.kinematics.delta_actions import compose, delta_between
from openvla_ros.teleop.command import TeleopCommand
from openvla_ros.values.action import ActionSpace, Frame
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import (
    Pose,
    transform_matrix_to_euler,
    transform_matrix_to_rotvec,
    transform_rotvec_to_matrix,
)

# Shares of the action bounds: fine work to full speed.
SPEEDS = (0.1, 0.25, 0.5, 1.0)


class Teleoperator:
    """Keeps the operator's choices: speed, frame and gripper command."""

    def __init__(
        self, space: ActionSpace, frame: Frame = "base", speed: int = 2, opening: float = 1.0
    ) -> None:
        """Raises ``InvalidValueError`` if the actions of ``space`` are no changes of the tool pose."""
        space.check_kind("tool_delta", "teleoperation")
        self.space, self.frame = space, frame
        self._speed = speed
        self.opening = opening  # of the gripper, 0 closed .. 1 open

    @property
    def speed(self) -> float:
        """The fraction of the action bounds at full deflection."""
        return SPEEDS[self._speed]

    def choose(self, command: TeleopCommand) -> None:
        """Apply the events that change a choice."""
        for event in command.events:
            match event:
                case "gripper":
                    self.opening = 0.0 if self.opening > 0.5 else 1.0
                case "frame":
                    self.frame = "tool" if self.frame == "base" else "base"
                case "faster":
                    self._speed = min(self._speed + 1, len(SPEEDS) - 1)
                case "slower":
                    self._speed = max(self._speed - 1, 0)
        if command.gripper is not None:
            self.opening = command.gripper

    def action(self, command: TeleopCommand, tool: Pose) -> Float | None:
        """Return one action (D,) within the space's bounds; ``None`` if the switch is released.

        ``tool`` is the tool's pose in the base frame, for motion in the tool frame.
        """
        if not command.held:
            return None
        move = command.translation * self.speed * self._reach(slice(0, 3))
        turn = command.rotation * self.speed * self._reach(slice(3, 6))
        move, turn = self._in_space(move, tool), self._in_space(turn, tool)
        return self._bounded(np.concatenate([move, self._angles(transform_rotvec_to_matrix(turn))]))

    def toward(self, target: Pose, goal: Pose) -> tuple[Float, Pose]:
        """Return the action (D,) that moves the commanded ``target`` as far toward ``goal`` as one step may.

        The second value is the target after it, from which the next action starts.
        """
        action = self._bounded(delta_between(target, goal, self.space))
        return action, compose(target, action, self.space)

    def _reach(self, part: slice) -> float:
        """The largest delta that is within the bounds whatever its direction."""
        return float(np.minimum(self.space.upper[part], -self.space.lower[part]).min())

    def _in_space(self, vector: Float, tool: Pose) -> Float:
        """Turn a vector from the operator's frame into the action space's."""
        if self.frame == self.space.frame:
            return vector
        turned: Float = (tool.rotation if self.frame == "tool" else tool.rotation.T) @ vector
        return turned

    def _angles(self, turn: Float) -> Float:
        if self.space.rotation == "euler_xyz":
            return transform_matrix_to_euler(turn)
        return transform_matrix_to_rotvec(turn)

    def _bounded(self, delta: Float) -> Float:
        gripper = self.opening if self.space.gripper_open == 1.0 else 1.0 - self.opening
        bounded: Float = np.clip([*delta, gripper], self.space.lower, self.space.upper)
        return bounded
