"""Which adapter a profile asks for: the one place that knows all of them.

The controller speaks to a driver that takes single setpoints through the setpoint node, in
trajectories that each end at rest; the driver's own adapter is that node's.
"""

from __future__ import annotations

from rclpy.node import Node

from openvla_ros.drivers.cartesian_target import CartesianTargetArm
from openvla_ros.drivers.command import ArmDriver, GripperDriver
from openvla_ros.drivers.forward_position import ForwardPositionArm
from openvla_ros.drivers.franka import FrankaGripper, FrankaRecovery
from openvla_ros.drivers.gripper_action import GripperAction
from openvla_ros.drivers.interbotix import InterbotixArm, InterbotixGripper
from openvla_ros.drivers.joint_trajectory import JointTrajectoryArm, JointTrajectoryGripper
from openvla_ros.drivers.servo_twist import ServoTwistArm
from openvla_ros.profile import RobotProfile

# What the setpoint node takes, relative to the robot's namespace.
ARM_SETPOINTS, GRIPPER_SETPOINTS = "controller/arm_trajectory", "controller/gripper_trajectory"


def make_arm(node: Node, profile: RobotProfile) -> ArmDriver:
    """Return what the controller moves the profile's arm with; raises as ``make_arm_driver``."""
    if profile.arm_backend.takes_setpoints:
        return JointTrajectoryArm(node, profile, ARM_SETPOINTS, "setpoint node")
    return make_arm_driver(node, profile)


def make_gripper(node: Node, profile: RobotProfile) -> GripperDriver:
    """Return what the controller moves the profile's gripper with; raises as ``make_arm_driver``."""
    if profile.gripper_backend.takes_setpoints:
        return JointTrajectoryGripper(node, profile, GRIPPER_SETPOINTS, "setpoint node")
    return make_gripper_driver(node, profile)


def make_arm_driver(node: Node, profile: RobotProfile) -> ArmDriver:
    """Return the adapter that speaks to the arm's own software.

    Raises ``MissingDependencyError`` if the messages that it speaks are not installed.
    """
    backend = profile.arm_backend
    match backend.kind:
        case "joint_trajectory":
            return JointTrajectoryArm(node, profile, backend.topic)
        case "forward_position":
            return ForwardPositionArm(node, backend)
        case "interbotix":
            return InterbotixArm(node, backend)
        case "cartesian_target":
            return CartesianTargetArm(node, profile, backend)
        case "servo_twist":
            return ServoTwistArm(node, profile, backend)


def make_gripper_driver(node: Node, profile: RobotProfile) -> GripperDriver:
    """Return the adapter that speaks to the gripper's own software; raises as ``make_arm_driver``."""
    backend = profile.gripper_backend
    match backend.kind:
        case "joint_trajectory":
            return JointTrajectoryGripper(node, profile, backend.topic)
        case "gripper_command":
            return GripperAction(node, profile, backend)
        case "interbotix_pwm":
            return InterbotixGripper(node, profile, backend)
        case "franka":
            return FrankaGripper(node, profile, backend)


def make_recovery(node: Node, profile: RobotProfile) -> FrankaRecovery | None:
    """Return what takes the arm out of an error state, for arms that have such a thing."""
    action = profile.arm_backend.recovery_action
    return FrankaRecovery(node, action) if action is not None else None
