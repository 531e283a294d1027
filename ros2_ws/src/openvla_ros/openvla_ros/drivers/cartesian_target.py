"""Streams tool poses to a Cartesian impedance controller (crisp_controllers' ``target_pose``).

It has no timeout: it pulls the arm to the last pose, through its own filter and damping. So the setpoint
node feeds it, which brakes when the controller is gone. It ignores every publisher while two nodes
publish ``target_pose``; because the setpoint node outlives the controller, there is only ever one.
"""

from __future__ import annotations

from geometry_msgs.msg import PoseStamped
from rclpy.node import Node

from openvla_ros.driver_profile import ArmBackend
from openvla_ros.drivers.protocol import ArmCommand
from openvla_ros.drivers.readiness.ros2_control import ControllerState
from openvla_ros.drivers.readiness.subscribers import acknowledged, missing_subscriber
from openvla_ros.drivers.readiness.unusable import worded
from openvla_ros.profile import RobotProfile
from openvla_ros.ros.messages import to_pose
from openvla_ros.ros.qos import COMMAND

CARTESIAN_CONTROLLER = "/CartesianController"  # how the type of crisp_controllers' ends


class CartesianTargetArm:
    """Publishes the pose of the tool link in the base link, once per control period."""

    def __init__(self, node: Node, profile: RobotProfile, backend: ArmBackend) -> None:
        self._node, self._frame_id = node, profile.arm.frame_prefix + profile.arm.base_link
        self._state = ControllerState(node, backend.topic, CARTESIAN_CONTROLLER)
        self._publisher = node.create_publisher(PoseStamped, backend.topic, COMMAND)

    def missing(self) -> str | None:
        """Return ``None`` once a controller subscribes."""
        return missing_subscriber(self._node, self._publisher, "Cartesian controller")

    def connect(self) -> str | None:
        """As ``missing``; also asks ros2_control whether a Cartesian controller is active."""
        return self.missing() or worded(self._state.progress())

    def send(self, command: ArmCommand) -> None:
        """Publish the pose, unless the controller is known to be inactive."""
        if self._state.problem is None:
            self._publisher.publish(to_pose(command.pose, command.stamp_ns, self._frame_id))

    def delivered(self, timeout_s: float) -> bool:
        """Wait until the robot's side has acknowledged the last command."""
        return acknowledged(self._publisher, timeout_s)
