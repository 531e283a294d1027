"""Franka: the actions of franka_ros2 for hand and recovery, and this package's franky node for everything.

Of franka_ros2: ``move`` only positions the fingers; holding something with a force needs ``grasp``. So an
opening above the profile's threshold becomes a ``move`` to that width, one below it a ``grasp``.

The franky node gets one setpoint a period, with its velocity and the time when it is due: it interpolates
them, and brakes by itself when they stop.
"""

from __future__ import annotations

import numpy as np
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.driver_profile import ArmBackend, GripperBackend
from openvla_ros.drivers.action_client import ActionGoal
from openvla_ros.drivers.protocol import ArmCommand, GripperCommand
from openvla_ros.drivers.readiness.optional_messages import interface
from openvla_ros.drivers.readiness.subscribers import acknowledged, missing_subscriber
from openvla_ros.profile import RobotProfile
from openvla_ros.ros.messages import to_joint_trajectory
from openvla_ros.ros.qos import COMMAND

CHANGE = 0.02  # minimum change of opening for a new goal
CHECK_S = 1.0  # how often it is checked whether a recovery was lost
RECOVER = "franky/recover"


class FrankaGripper:
    """``grasp`` to close and ``move`` to open; a goal for each change."""

    def __init__(self, node: Node, profile: RobotProfile, backend: GripperBackend) -> None:
        what = "gripper_backend 'franka'"
        self._grasp_type = interface("franka_msgs/action/Grasp", what)
        self._move_type = interface("franka_msgs/action/Move", what)
        self._gripper, self._backend = profile.gripper, backend
        folder = backend.topic.rstrip("/")
        self._grasp = ActionGoal(node, self._grasp_type, node.resolve_service_name(f"{folder}/grasp"))
        self._move = ActionGoal(node, self._move_type, node.resolve_service_name(f"{folder}/move"))
        self._last: ActionGoal | None = None  # which of them has the last goal, and its opening
        self._sent = 0.0

    def missing(self) -> str | None:
        """Return ``None`` if both actions are available."""
        for action in (self._grasp, self._move):
            if not action.is_there():
                return f"no action server at {action.name}: is franka_gripper running?"
        return None

    def connect(self) -> str | None:
        """Return ``None`` once both actions are available and the last goal was not refused.

        A driver that comes back is sent the last opening again.
        """
        for action in (self._grasp, self._move):
            action.check()
        return self.missing() or (self._last.problem if self._last is not None else None)

    def send(self, command: GripperCommand) -> None:
        """Send a goal if the wanted opening changed since the last one, or if the driver has none."""
        held = self._last is not None and self._last.holds_goal
        if held and abs(command.opening - self._sent) < CHANGE:
            return
        if not (self._grasp.is_there() and self._move.is_there()):
            return
        self._sent = command.opening
        width_m = 2.0 * self._gripper.position_m(command.opening)  # both fingers
        if command.opening > self._gripper.threshold:
            goal = self._move_type.Goal(width=width_m, speed=self._backend.speed_m_s)
            self._last = self._move
        else:
            goal = self._grasp_type.Goal(
                width=width_m, speed=self._backend.speed_m_s, force=self._backend.force_n
            )
            # Whatever is between the fingers, of any width, counts as grasped.
            goal.epsilon.inner = goal.epsilon.outer = 2.0 * abs(self._gripper.open_m)
            self._last = self._grasp
        self._last.send(goal)


class FrankaRecovery:
    """``error_recovery``: gets the arm out of a reflex or an error, on a person's request."""

    def __init__(self, node: Node, action: str) -> None:
        self._type = interface("franka_msgs/action/ErrorRecovery", "Franka error recovery")
        name = node.resolve_service_name(action)
        self._action = ActionGoal(node, self._type, name, node.get_logger().error)
        node.create_timer(CHECK_S, self._action.check)

    @property
    def problem(self) -> str | None:
        """What became of the last recovery if it failed or was lost; the log says it too.

        A recovery is never requested again by itself: the arm may move after it.
        """
        return self._action.problem

    def recover(self) -> str | None:
        """Request recovery; return why that is impossible, or ``None``."""
        if not self._action.is_there():
            return f"no action server at {self._action.name}: is franka_ros2 running?"
        self._action.send(self._type.Goal())
        return None


class FrankyArm:
    """One trajectory of one point a period: position and velocity, stamped with the time it is due."""

    def __init__(self, node: Node, profile: RobotProfile, backend: ArmBackend) -> None:
        self._node, self._joints = node, profile.arm.joints
        self._publisher = node.create_publisher(JointTrajectory, backend.topic, COMMAND)

    def missing(self) -> str | None:
        """Return ``None`` once the franky node subscribes."""
        return missing_subscriber(self._node, self._publisher, "franky node")

    connect = missing

    def send(self, command: ArmCommand) -> None:
        """Publish the setpoint."""
        motion = command.motion
        self._publisher.publish(
            to_joint_trajectory(
                self._joints,
                np.array([motion.position]),
                [0.0],
                command.stamp_ns,
                velocities=np.array([motion.velocity]),
            )
        )

    def delivered(self, timeout_s: float) -> bool:
        """Wait until the robot's side has acknowledged the last command."""
        return acknowledged(self._publisher, timeout_s)


class FrankyRecovery:
    """Asks the franky node to get the arm out of a reflex or an error, on a person's request."""

    def __init__(self, node: Node) -> None:
        self._logger = node.get_logger()
        self._client = node.create_client(Trigger, RECOVER)
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """Why the last recovery was refused; what became of it otherwise is in the franky node's log."""
        return self._problem

    def recover(self) -> str | None:
        """Request recovery; return why that is impossible, or ``None``."""
        if not self._client.service_is_ready():
            return f"no service {self._client.srv_name}: is the franky node running?"
        self._problem = None
        self._client.call_async(Trigger.Request()).add_done_callback(self._answered)
        return None

    def _answered(self, future: Future) -> None:
        answer = future.result()
        if answer is not None and not answer.success:
            self._problem = answer.message
            self._logger.error(f"recovery refused: {answer.message}")
