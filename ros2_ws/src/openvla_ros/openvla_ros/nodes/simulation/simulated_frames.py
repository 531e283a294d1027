"""The simulated robot's tf, in place of robot_state_publisher and a calibrated camera.

Links and cameras, each in the arm's base frame. Moving frames are on ``/tf``, fixed ones on
``/tf_static``; names are those of the profile. Without tf2_msgs (there is no wheel of it) there is no tf.
"""

from __future__ import annotations

from typing import Any

from geometry_msgs.msg import TransformStamped
from rclpy.node import Node

from openvla_ros.drivers.readiness.optional_messages import interface
from openvla_ros.errors import MissingDependencyError
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.ros import qos
from openvla_ros.ros.messages import to_stamp
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.values.geometry import Pose

RATE_HZ = 50.0  # as robot_state_publisher's default is 20, and joint states come at 100


class FramePublisher:
    """Publishes the poses of the links and cameras of one simulated robot."""

    def __init__(self, node: Node, profile: RobotProfile) -> None:
        """Log once, if tf2_msgs is not installed, that there will be no tf."""
        self._arm, self._gripper = profile.arm, profile.gripper
        self._cameras = profile.cameras
        self._chain = KinematicChain.from_profile(profile.arm)
        carried = self._chain.link_offsets({})
        self._moving = frozenset(link for link, (frame, _) in carried.items() if frame >= 0)
        self._published: tuple[Any, Any] | None = None
        try:
            self._type = interface("tf2_msgs/msg/TFMessage", "the simulation's /tf and /tf_static")
        except MissingDependencyError as error:
            node.get_logger().info(f"no tf: {error}")
            return
        self._published = (
            node.create_publisher(self._type, "/tf", qos.STREAM_OUT),
            node.create_publisher(self._type, "/tf_static", qos.LATCHED),
        )
        self._static_sent = False

    def publish(self, robot: SimulatedRobot, stamp_ns: int) -> None:
        """Publish the current frames; fixed ones only once."""
        if self._published is None:
            return
        moving, static = self._published
        fixed: list[TransformStamped] = []
        current: list[TransformStamped] = []
        poses = self._chain.link_poses(robot.joint_positions, {self._gripper.joint: robot.gripper_joint[0]})
        for link, pose in poses.items():
            if link != self._arm.base_link:
                message = self._transform(self._arm.frame_prefix + link, pose, stamp_ns)
                (current if link in self._moving else fixed).append(message)
        named = {message.child_frame_id for message in (*current, *fixed)}
        for camera in self._cameras:
            if camera.frame_id not in named:
                message = self._transform(camera.frame_id, robot.camera_pose(camera.name), stamp_ns)
                (fixed if robot.camera_stands(camera.name) else current).append(message)
        moving.publish(self._type(transforms=current))
        if not self._static_sent:
            static.publish(self._type(transforms=fixed))
            self._static_sent = True

    def _transform(self, child: str, pose: Pose, stamp_ns: int) -> TransformStamped:
        message = TransformStamped(child_frame_id=child)
        message.header.frame_id = self._arm.frame_prefix + self._arm.base_link
        message.header.stamp = to_stamp(stamp_ns)
        t, r = message.transform.translation, message.transform.rotation
        t.x, t.y, t.z = map(float, pose.position)
        r.x, r.y, r.z, r.w = map(float, pose.quaternion)
        return message
