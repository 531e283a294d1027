"""The topics of crisp_controllers on the simulated arm, as crisp_py and our own back end use them.

``target_pose``, ``target_joint`` and ``gripper_position_controller/commands`` come in, ``current_pose`` and
``current_twist`` go out. As in crisp_controllers 1.0 (``check_topic_publisher_count``), a target is ignored
while more than one node publishes its topic.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, Header

from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.ros import qos
from openvla_ros.ros.messages import from_pose, to_pose, to_stamp
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose

TARGET_POSE, TARGET_JOINT = "target_pose", "target_joint"
GRIPPER_COMMANDS = "gripper_position_controller/commands"
CURRENT_POSE, CURRENT_TWIST = "current_pose", "current_twist"


class CrispTopics:
    """Hands targets on, and publishes where the tool is and how it moves."""

    def __init__(
        self,
        node: Node,
        profile: RobotProfile,
        move_to: Callable[[Pose], None],
        move_joints_to: Callable[[list[str], list[float]], None],
        open_to: Callable[[float], None],
        refuse: Callable[[str], None],
    ) -> None:
        """``open_to`` takes the position of the gripper's joint, m; ``refuse`` why a message is not used."""
        self._node, self._refuse = node, refuse
        self._chain = KinematicChain.from_profile(profile.arm)
        self._frame = profile.arm.frame_prefix + profile.arm.base_link
        self._move_to, self._move_joints_to, self._open_to = move_to, move_joints_to, open_to
        self._poses = node.create_publisher(PoseStamped, CURRENT_POSE, qos.STREAM_OUT)
        self._twists = node.create_publisher(TwistStamped, CURRENT_TWIST, qos.STREAM_OUT)
        for kind, topic, take in (
            (PoseStamped, TARGET_POSE, self._pose),
            (JointState, TARGET_JOINT, self._joints),
            (Float64MultiArray, GRIPPER_COMMANDS, self._gripper),
        ):
            node.create_subscription(kind, topic, partial(self._take, topic, take), qos.COMMAND)

    def publish(self, q: Float, velocity: Float, stamp_ns: int) -> None:
        """Publish pose and twist of the tool at joints (J,) rad that move at (J,) rad/s."""
        self._poses.publish(to_pose(self._chain.forward(q), stamp_ns, self._frame))
        message = TwistStamped(header=Header(stamp=to_stamp(stamp_ns), frame_id=self._frame))
        twist, v = message.twist, [float(value) for value in self._chain.jacobian(q) @ velocity]
        twist.linear.x, twist.linear.y, twist.linear.z = v[:3]
        twist.angular.x, twist.angular.y, twist.angular.z = v[3:]
        self._twists.publish(message)

    def _take(self, topic: str, take: Callable[[Any], None], message: Any) -> None:
        count = self._node.count_publishers(topic)
        if count > 1:
            return self._refuse(f"{topic} has {count} publishers; crisp_controllers takes one")
        try:
            take(message)
        except (InvalidValueError, ValueError) as error:
            self._refuse(f"{topic}: {error}")

    def _pose(self, message: PoseStamped) -> None:
        # In the base frame, whatever the header says: crisp_controllers does not read it.
        self._move_to(from_pose(message))

    def _joints(self, message: JointState) -> None:
        self._move_joints_to(list(message.name), list(message.position))

    def _gripper(self, message: Float64MultiArray) -> None:
        if len(message.data) != 1:
            raise InvalidValueError(f"{len(message.data)} values; the gripper has one joint")
        self._open_to(float(message.data[0]))
