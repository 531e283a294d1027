"""The setpoint node's and the controller's side of the franky node, which drives a Franka arm.

One setpoint a period, with its velocity and the time when it was due: the franky node interpolates them, and
brakes by itself when they stop.
"""

from __future__ import annotations

import numpy as np
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.driver_profile import ArmBackend
from openvla_ros.drivers.protocol import ArmCommand
from openvla_ros.drivers.subscribers import acknowledged, missing_subscriber
from openvla_ros.profile import RobotProfile
from openvla_ros.ros.messages import to_joint_trajectory
from openvla_ros.ros.qos import COMMAND

RECOVER = "franky/recover"


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
