"""Streams to Interbotix's xs_sdk: joint groups by position, the gripper by PWM.

The group's motors must be in position mode without a time profile, which is not how the driver starts by
default; it is asked. The driver has no timeout: the motors stop abruptly at their last position, and the
gripper keeps pressing with its last PWM. (Its ``commands/joint_trajectory`` refuses a trajectory while
another one is playing, so it cannot be used for streaming.) So the setpoint node feeds both.
"""

from __future__ import annotations

from rclpy.node import Node

from openvla_ros.driver_profile import ArmBackend, GripperBackend
from openvla_ros.drivers.protocol import ArmCommand, GripperCommand
from openvla_ros.drivers.readiness.motor_modes import arm_motors, gripper_motor
from openvla_ros.drivers.readiness.optional_messages import interface
from openvla_ros.drivers.readiness.subscribers import acknowledged, missing_subscriber
from openvla_ros.drivers.readiness.unusable import worded
from openvla_ros.profile import RobotProfile
from openvla_ros.ros.qos import COMMAND
from openvla_ros.values.time import nanoseconds

# bridge_data_robot's gripper law: full PWM from 1/300 m of error on, 50 times a second.
PWM_GAIN_PER_M = 300.0
PWM_PERIOD_S = 0.02


def gripper_pwm(target_m: float, measured_m: float, limit: float) -> float:
    """Return the PWM that drives the finger to ``target_m``; positive opens.

    bridge_data_robot's ``custom_gripper_controller.py``: clip(300 (target - measured), -1, 1) 350.
    """
    return max(-1.0, min(1.0, PWM_GAIN_PER_M * (target_m - measured_m))) * limit


class InterbotixArm:
    """One ``JointGroupCommand`` a period."""

    def __init__(self, node: Node, profile: RobotProfile, backend: ArmBackend) -> None:
        self._type = interface("interbotix_xs_msgs/msg/JointGroupCommand", "arm_backend 'interbotix'")
        self._node, self._group = node, backend.group
        self._motors = arm_motors(node, profile)
        self._publisher = node.create_publisher(self._type, backend.topic, COMMAND)

    def missing(self) -> str | None:
        """Return ``None`` once the driver subscribes."""
        return missing_subscriber(self._node, self._publisher, "Interbotix driver (xs_sdk)")

    def connect(self) -> str | None:
        """As ``missing``; also asks how the motors are set up."""
        return self.missing() or worded(self._motors.progress())

    def send(self, command: ArmCommand) -> None:
        """Publish the positions of the group, if its motors are known to take them."""
        if self._motors.problem is None:
            positions = [float(q) for q in command.motion.position]
            self._publisher.publish(self._type(name=self._group, cmd=positions))

    def delivered(self, timeout_s: float) -> bool:
        """Wait until the robot's side has acknowledged the last command."""
        return acknowledged(self._publisher, timeout_s)


class InterbotixGripper:
    """A ``JointSingleCommand`` of PWM, 50 times a second, from the finger's measured position."""

    def __init__(self, node: Node, profile: RobotProfile, backend: GripperBackend) -> None:
        self._type = interface(
            "interbotix_xs_msgs/msg/JointSingleCommand", "gripper_backend 'interbotix_pwm'"
        )
        self._node, self._gripper, self._backend = node, profile.gripper, backend
        self._motor = gripper_motor(node, profile)
        self._publisher = node.create_publisher(self._type, backend.topic, COMMAND)
        self._next_ns = 0
        self._unmeasured = False

    def missing(self) -> str | None:
        """Return ``None`` once the driver subscribes and reports the finger."""
        if self._unmeasured:
            return f"joint states lack {self._gripper.joint!r}, which is needed to compute the gripper's PWM"
        return missing_subscriber(self._node, self._publisher, "Interbotix driver (xs_sdk)")

    def connect(self) -> str | None:
        """As ``missing``; also asks how the motor is set up."""
        return self.missing() or worded(self._motor.progress())

    def send(self, command: GripperCommand) -> None:
        """Publish the PWM of bridge_data_robot's control law, at its rate, if the motor takes PWM."""
        self._unmeasured = command.measured_m is None
        if command.measured_m is None or command.stamp_ns < self._next_ns or self._motor.problem is not None:
            return
        self._next_ns = command.stamp_ns + nanoseconds(PWM_PERIOD_S)
        target_m = self._gripper.position_m(command.opening)
        pwm = gripper_pwm(target_m, command.measured_m, self._backend.pwm_limit)
        self._publisher.publish(self._type(name=self._backend.motor, cmd=pwm))
