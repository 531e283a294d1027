"""A robot's tf for tests: joint states at the neutral pose, the links by its URDF, a camera on a stand.

Arguments: the profile, and by how much in metres tf's tool is off. One JSON line when it is running.
"""

import json
import sys

import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import JointState
from tf2_msgs.msg import TFMessage

from openvla_ros.profile import load_profile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.ros import qos
from openvla_ros.values.geometry import Pose


def transform(parent: str, child: str, pose: Pose, stamp) -> TransformStamped:
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id, message.header.stamp = parent, stamp
    t, r = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = map(float, pose.position)
    r.x, r.y, r.z, r.w = map(float, pose.quaternion)
    return message


def main() -> None:
    name, off_m = remove_ros_args(sys.argv)[1:]
    profile = load_profile(name)
    arm = profile.arm
    poses = KinematicChain.from_profile(arm).link_poses(arm.neutral)
    poses[arm.tool_link] = poses[arm.tool_link] @ Pose.from_euler([float(off_m), 0.0, 0.0], [0.0, 0.0, 0.0])
    rclpy.init()
    node = rclpy.create_node("robot_state_publisher")
    moving = node.create_publisher(TFMessage, "/tf", qos.STREAM_OUT)
    fixed = node.create_publisher(TFMessage, "/tf_static", qos.LATCHED)
    states = node.create_publisher(JointState, profile.state.joint_states_topic, qos.STREAM_OUT)
    base = arm.frame_prefix + arm.base_link

    def publish() -> None:
        now = node.get_clock().now().to_msg()
        message = JointState(name=[*arm.joints, profile.gripper.joint], position=[*arm.neutral, 0.02])
        message.header.stamp = now
        states.publish(message)
        links = [transform(base, arm.frame_prefix + link, pose, now) for link, pose in poses.items()]
        moving.publish(TFMessage(transforms=[t for t in links if t.child_frame_id != base]))

    stand = Pose.from_euler([0.5, 0.3, 0.4], [0.0, 0.5, 1.0])
    now = node.get_clock().now().to_msg()
    fixed.publish(TFMessage(transforms=[transform(base, profile.cameras[0].frame_id, stand, now)]))
    node.create_timer(0.02, publish)
    sys.stdout.write(json.dumps({"ready": True}) + "\n")
    sys.stdout.flush()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
