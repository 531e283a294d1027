"""Creates the drivers for a profile; the only module that knows all of them.

For a robot that takes single setpoints, the controller sends trajectories that end at rest to the
setpoint node, and that node uses the robot's driver.
"""

from __future__ import annotations

from rclpy.node import Node

from openvla_ros.drivers.cartesian_target import CARTESIAN_CONTROLLER, CartesianTargetArm
from openvla_ros.drivers.forward_position import ForwardPositionArm
from openvla_ros.drivers.franka import FrankaGripper, FrankaRecovery, FrankyArm, FrankyRecovery
from openvla_ros.drivers.gripper_action import GripperAction
from openvla_ros.drivers.interbotix import InterbotixArm, InterbotixGripper
from openvla_ros.drivers.joint_trajectory import JointTrajectoryArm, JointTrajectoryGripper
from openvla_ros.drivers.protocol import ArmDriver, GripperDriver
from openvla_ros.drivers.readiness.motor_modes import arm_motors, gripper_motor
from openvla_ros.drivers.readiness.ros2_control import ControllerState
from openvla_ros.drivers.readiness.unusable import ArmState
from openvla_ros.drivers.servo_twist import ServoTwistArm
from openvla_ros.profile import RobotProfile

# The setpoint node's topics, relative to the robot's namespace.
ARM_SETPOINTS, GRIPPER_SETPOINTS = "controller/arm_trajectory", "controller/gripper_trajectory"


def make_arm(node: Node, profile: RobotProfile) -> ArmDriver:
    """Return the controller's driver for the profile's arm; raises as ``make_arm_driver``."""
    if profile.arm_backend.takes_setpoints:
        return JointTrajectoryArm(
            node, profile, ARM_SETPOINTS, "setpoint node", behind=arm_state(node, profile)
        )
    return make_arm_driver(node, profile)


def make_gripper(node: Node, profile: RobotProfile) -> GripperDriver:
    """Return the controller's driver for the profile's gripper; raises as ``make_arm_driver``."""
    if profile.gripper_backend.takes_setpoints:
        return JointTrajectoryGripper(node, profile, GRIPPER_SETPOINTS, "setpoint node")
    return make_gripper_driver(node, profile)


def make_arm_driver(node: Node, profile: RobotProfile) -> ArmDriver:
    """Return the driver for the arm's own software.

    Raises ``MissingDependencyError`` if its message packages are not installed.
    """
    backend = profile.arm_backend
    match backend.kind:
        case "joint_trajectory":
            return JointTrajectoryArm(node, profile, backend.topic)
        case "forward_position":
            return ForwardPositionArm(node, backend)
        case "interbotix":
            return InterbotixArm(node, profile, backend)
        case "cartesian_target":
            return CartesianTargetArm(node, profile, backend)
        case "servo_twist":
            return ServoTwistArm(node, profile, backend)
        case "franky":
            return FrankyArm(node, profile, backend)


def arm_state(node: Node, profile: RobotProfile) -> ArmState | None:
    """Return what asks the arm's own software how it is set up, or ``None`` where that is not asked.

    Raises ``MissingDependencyError`` as ``make_arm_driver``.
    """
    backend = profile.arm_backend
    match backend.kind:
        case "interbotix":
            return arm_motors(node, profile)
        case "joint_trajectory" | "forward_position":
            return ControllerState(node, backend.topic)
        case "cartesian_target":
            return ControllerState(node, backend.topic, CARTESIAN_CONTROLLER)
        case _:
            return None


def gripper_state(node: Node, profile: RobotProfile) -> ArmState | None:
    """As ``arm_state``, of the gripper."""
    return gripper_motor(node, profile) if profile.gripper_backend.kind == "interbotix_pwm" else None


def make_gripper_driver(node: Node, profile: RobotProfile) -> GripperDriver:
    """Return the driver for the gripper's own software; raises as ``make_arm_driver``."""
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
        case "franky":
            return JointTrajectoryGripper(node, profile, backend.topic, "franky node")


def make_recovery(node: Node, profile: RobotProfile) -> FrankaRecovery | FrankyRecovery | None:
    """Return the error recovery of arms that have one, else ``None``."""
    if profile.arm_backend.kind == "franky":
        return FrankyRecovery(node)
    action = profile.arm_backend.recovery_action
    return FrankaRecovery(node, action) if action is not None else None
