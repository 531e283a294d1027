"""Streams positions to a ros2_control forward command controller (``JointGroupPositionController``).

Such a controller has no timeout: it keeps writing its last command to the joints, which stops them
abruptly there. So the setpoint node feeds it, which brakes when our controller is gone.
"""

from __future__ import annotations

from rclpy.node import Node
from std_msgs.msg import Float64MultiArray

from openvla_ros.driver_profile import ArmBackend
from openvla_ros.drivers.protocol import ArmCommand
from openvla_ros.drivers.readiness.ros2_control import ControllerState
from openvla_ros.drivers.readiness.subscribers import acknowledged, missing_subscriber
from openvla_ros.drivers.readiness.unusable import worded
from openvla_ros.ros.qos import COMMAND


class ForwardPositionArm:
    """One message a period: the joints' positions in the profile's order."""

    def __init__(self, node: Node, backend: ArmBackend) -> None:
        self._node = node
        self._state = ControllerState(node, backend.topic)
        self._publisher = node.create_publisher(Float64MultiArray, backend.topic, COMMAND)

    def missing(self) -> str | None:
        """Return ``None`` once a controller subscribes."""
        return missing_subscriber(self._node, self._publisher, "forward position controller")

    def connect(self) -> str | None:
        """As ``missing``; also asks whether the controller is active."""
        return self.missing() or worded(self._state.progress())

    def send(self, command: ArmCommand) -> None:
        """Publish the positions, unless the controller is known to be inactive."""
        if self._state.problem is None:
            self._publisher.publish(Float64MultiArray(data=[float(q) for q in command.motion.position]))

    def delivered(self, timeout_s: float) -> bool:
        """Wait until the robot's side has acknowledged the last command."""
        return acknowledged(self._publisher, timeout_s)
