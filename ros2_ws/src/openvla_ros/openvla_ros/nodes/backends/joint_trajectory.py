"""Streams to a ros2_control joint trajectory controller, or the setpoint node, for arm and gripper.

Every message of the arm carries the next sample and then a stop within the limits. The controller
on the robot replaces a trajectory by the next message; if there is no next message, because this
process was killed or the network is gone, the robot brakes by itself and rests.
"""

from __future__ import annotations

import numpy as np
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.nodes.backends.command import ArmCommand, GripperCommand
from openvla_ros.nodes.backends.subscribers import acknowledged, missing_subscriber
from openvla_ros.nodes.messages import NS_PER_S, to_joint_trajectory
from openvla_ros.nodes.qos import COMMAND
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.braking import MotionLimits
from openvla_ros.robot.trailing_stop import trailing_stop


class JointTrajectoryArm:
    """One message a period: where the arm shall be a moment ahead, and a stop from there.

    The points carry absolute times, spaced as evenly as the samples of the motion. What arrives
    late, or two at once, still says when to be where: the arm does not speed up to make up for it.
    """

    def __init__(
        self, node: Node, profile: RobotProfile, topic: str, taker: str = "joint trajectory controller"
    ) -> None:
        """``taker`` says in messages who should subscribe to ``topic``."""
        self._node, self._joints, self._taker = node, profile.arm.joints, taker
        self._limits = MotionLimits.from_profile(profile.limits)
        self._lookahead_s = profile.arm_backend.lookahead_s
        self._publisher = node.create_publisher(JointTrajectory, topic, COMMAND)

    def missing(self) -> str | None:
        """Return ``None`` if a controller subscribes."""
        return missing_subscriber(self._node, self._publisher, self._taker)

    connect = missing

    def send(self, command: ArmCommand) -> None:
        """Publish the command and the stop after it."""
        stop = trailing_stop(command.motion, self._limits)
        if self._lookahead_s > 0.0:
            stamp_ns, times = command.stamp_ns, stop.times_s + self._lookahead_s
        else:
            stamp_ns, times = 0, stop.times_s + command.period_s  # 0: start at once
        self._publisher.publish(
            to_joint_trajectory(
                self._joints, stop.positions, list(times), stamp_ns, velocities=stop.velocities
            )
        )

    def delivered(self, timeout_s: float) -> bool:
        """Wait until the robot's side has acknowledged the last command."""
        return acknowledged(self._publisher, timeout_s)


class JointTrajectoryGripper:
    """A trajectory of one point: the gripper's joint at the wanted position."""

    # Repeated, so that a gripper controller that was restarted takes up the command again.
    REPEAT_S = 1.0

    def __init__(
        self, node: Node, profile: RobotProfile, topic: str, taker: str = "gripper trajectory controller"
    ) -> None:
        """``taker`` says in messages who should subscribe to ``topic``."""
        self._node, self._gripper, self._taker = node, profile.gripper, taker
        self._speed_m_s = profile.gripper_backend.speed_m_s
        self._publisher = node.create_publisher(JointTrajectory, topic, COMMAND)
        self._last: GripperCommand | None = None

    def missing(self) -> str | None:
        """Return ``None`` if a controller subscribes."""
        return missing_subscriber(self._node, self._publisher, self._taker)

    connect = missing

    def send(self, command: GripperCommand) -> None:
        """Publish the wanted position when it changed, and about once a second."""
        last = self._last
        fresh = last and command.stamp_ns - last.stamp_ns < self.REPEAT_S * NS_PER_S
        if last and fresh and last.opening == command.opening:
            return
        self._last = command
        target_m = self._gripper.position_m(command.opening)
        travel_m = abs(self._gripper.open_m - self._gripper.closed_m)
        if command.measured_m is not None:
            travel_m = abs(target_m - command.measured_m)
        duration_s = max(0.05, travel_m / self._speed_m_s)
        self._publisher.publish(
            to_joint_trajectory([self._gripper.joint], np.array([[target_m]]), [duration_s], 0)
        )
