"""Streams to a ros2_control joint trajectory controller, or the setpoint node, for arm and gripper.

Every arm message contains the current motion, the next sample and then a stop within the limits. The
controller on the robot replaces its trajectory with the next message; if none arrives, because this
process was killed or the network is down, the robot brakes to rest by itself.
"""

from __future__ import annotations

import numpy as np
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.drivers.protocol import ArmCommand, GripperCommand
from openvla_ros.drivers.readiness.ros2_control import ControllerState, Settings, SettingsQuery
from openvla_ros.drivers.readiness.subscribers import acknowledged, missing_subscriber
from openvla_ros.drivers.readiness.unusable import ArmState, Unusable, worded
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.motion.motion_limiter import MotionLimits
from openvla_ros.robot.motion.streamed_trajectory import TrajectoryStream
from openvla_ros.ros.messages import to_joint_trajectory
from openvla_ros.ros.qos import COMMAND
from openvla_ros.values.time import NS_PER_S

CONTROLLER = "joint trajectory controller"


class JointTrajectoryArm:
    """One message per period: where the arm is, where it should be a moment later, and a stop from there.

    The points have absolute times, spaced as evenly as the samples of the motion. So a message that arrives
    late, or together with the next, does not make the arm speed up.
    """

    def __init__(
        self,
        node: Node,
        profile: RobotProfile,
        topic: str,
        taker: str = CONTROLLER,
        behind: ArmState | None = None,
    ) -> None:
        """``taker`` says in messages who should subscribe; a controller is asked for its state and settings.

        ``behind`` another taker: the state of the arm's own software.
        """
        self._node, self._joints, self._taker = node, profile.arm.joints, taker
        self._query = SettingsQuery(node, topic) if taker == CONTROLLER else None
        self._state = ControllerState(node, topic) if taker == CONTROLLER else behind
        self._settings: Settings | None = None
        self._unusable: Unusable | None = None
        limits = MotionLimits.from_profile(profile.limits)
        self._stream = TrajectoryStream(limits, profile.arm_backend.lookahead_s)
        self._publisher = node.create_publisher(JointTrajectory, topic, COMMAND)

    def missing(self) -> str | None:
        """Return ``None`` if a controller subscribes."""
        return missing_subscriber(self._node, self._publisher, self._taker)

    def connect(self) -> str | None:
        """As ``missing``; also asks whether the controller is active and how it is set up, and logs that."""
        missing = self.missing()
        if missing is not None:
            return missing
        self._unusable = self._state.progress() if self._state is not None else None
        if self._unusable is None and self._query is not None:
            settings = self._query.progress()
            if settings is not None and settings is not self._settings:
                self._node.get_logger().info(str(settings))
            self._settings = settings
            self._unusable = None if settings is None else settings.problem
        return worded(self._unusable)

    def send(self, command: ArmCommand) -> None:
        """Publish the command and the stop after it, unless the arm must not be moved this way."""
        if self._unusable is not None:  # the last message ends in a stop
            return
        sent = self._stream.next(command.stamp_ns, command.period_s, command.motion)
        self._publisher.publish(
            to_joint_trajectory(
                self._joints, sent.positions, sent.times_s.tolist(), sent.stamp_ns, velocities=sent.velocities
            )
        )

    def delivered(self, timeout_s: float) -> bool:
        """Wait until the robot's side has acknowledged the last command."""
        return acknowledged(self._publisher, timeout_s)


class JointTrajectoryGripper:
    """A trajectory of one point: the gripper's joint at the wanted position.

    A repeated command is due at once: with time to move, it would start at the measured opening, and a
    gripper that holds something would let go and squeeze again. Only after the controller was away does
    the command include the time that the motion takes.
    """

    # Repeated, so that a gripper controller that missed the command takes it up.
    REPEAT_S = 1.0

    def __init__(
        self, node: Node, profile: RobotProfile, topic: str, taker: str = "gripper trajectory controller"
    ) -> None:
        """``taker`` names the expected subscriber of ``topic`` in messages."""
        self._node, self._gripper, self._taker = node, profile.gripper, taker
        self._speed_m_s = profile.gripper_backend.speed_m_s
        self._publisher = node.create_publisher(JointTrajectory, topic, COMMAND)
        self._last: GripperCommand | None = None
        self._repeat_s = self.REPEAT_S

    def missing(self) -> str | None:
        """Return ``None`` if a controller subscribes."""
        return missing_subscriber(self._node, self._publisher, self._taker)

    def connect(self) -> str | None:
        """As ``missing``; a controller that reconnects gets the last command again."""
        missing = self.missing()
        if missing is not None:
            self._last = None
        return missing

    def send(self, command: GripperCommand) -> None:
        """Publish the wanted position when it changed, and about once a second."""
        last = self._last
        repeated = last is not None and last.opening == command.opening
        if last and repeated and command.stamp_ns - last.stamp_ns < self._repeat_s * NS_PER_S:
            return
        self._last = command
        target_m = self._gripper.position_m(command.opening)
        duration_s = 0.0 if repeated else self._duration_s(target_m, command.measured_m)
        self._repeat_s = max(self.REPEAT_S, duration_s)  # not before it has arrived
        self._publisher.publish(
            to_joint_trajectory([self._gripper.joint], np.array([[target_m]]), [duration_s], 0)
        )

    def _duration_s(self, target_m: float, measured_m: float | None) -> float:
        """Return how long the way to ``target_m`` takes at the profile's speed."""
        travel_m = abs(self._gripper.open_m - self._gripper.closed_m)
        if measured_m is not None:
            travel_m = abs(target_m - measured_m)
        return max(0.05, travel_m / self._speed_m_s)
