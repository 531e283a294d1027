"""Grippers behind ``control_msgs``' actions: ``GripperCommand`` or ``ParallelGripperCommand``.

Older and newer gripper controllers of ros2_control both call it ``gripper_cmd``; the running server's
type shows which one this robot has.
"""

from __future__ import annotations

from typing import Any

from rclpy.action import get_action_names_and_types
from rclpy.node import Node
from sensor_msgs.msg import JointState

from openvla_ros.driver_profile import GripperBackend
from openvla_ros.drivers.action_client import ActionGoal
from openvla_ros.drivers.protocol import GripperCommand
from openvla_ros.drivers.readiness.optional_messages import interface
from openvla_ros.profile import RobotProfile

TYPES = ("control_msgs/action/GripperCommand", "control_msgs/action/ParallelGripperCommand")
# Minimum change of opening for a new goal: each goal preempts the last one.
CHANGE = 0.02
WHAT = "gripper_backend 'gripper_command'"


class GripperAction:
    """One goal for each change of the wanted opening."""

    def __init__(self, node: Node, profile: RobotProfile, backend: GripperBackend) -> None:
        interface(TYPES[0], WHAT)  # both types are in one package: if it is missing, say so at start
        self._node, self._gripper, self._backend = node, profile.gripper, backend
        self._name = node.resolve_service_name(backend.topic)
        self._type: str = ""
        self._action: ActionGoal | None = None
        self._sent = 0.0  # opening of the goal that the server holds

    def missing(self) -> str | None:
        """Return ``None`` if there is a server of a supported type."""
        offered = self._offered()
        if any(name in TYPES for name in offered):
            return None
        have = f" but {', '.join(offered)}" if offered else ""
        return f"{self._name} offers neither {' nor '.join(TYPES)}{have}"

    def connect(self) -> str | None:
        """Find the server and its type; return ``None`` once goals can be sent and none was refused.

        A server that comes back is sent the last opening again.
        """
        if self._action is None or not self._action.is_there():
            known = [name for name in self._offered() if name in TYPES]
            if not known:
                return self.missing()
            self._use(known[0])
        if self._action is None or not self._action.is_there():
            return f"{self._name} does not answer"
        return self._action.check()

    def send(self, command: GripperCommand) -> None:
        """Send a goal if the wanted opening changed since the last one, or if the server has none."""
        if self._action is None:
            return
        if self._action.holds_goal and abs(command.opening - self._sent) < CHANGE:
            return
        if not self._action.is_there():
            return
        self._sent = command.opening
        self._action.send(self._goal(self._gripper.position_m(command.opening)))

    def _offered(self) -> list[str]:
        return dict(get_action_names_and_types(self._node)).get(self._name, [])

    def _use(self, name: str) -> None:
        if name == self._type:
            return
        if self._action is not None:
            self._action.destroy()
        self._type = name
        self._action = ActionGoal(self._node, interface(name, WHAT), self._name)

    def _goal(self, position_m: float) -> Any:
        goal = interface(self._type, WHAT).Goal()
        if self._type == TYPES[0]:
            goal.command.position, goal.command.max_effort = position_m, self._backend.force_n
        else:
            goal.command = JointState(
                name=[self._gripper.joint], position=[position_m], effort=[self._backend.force_n]
            )
        return goal
