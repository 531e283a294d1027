"""A policy by a script, as a process of its own that can be killed.

It answers each image with a chunk stamped with the image's stamp: without images there are no chunks.
The tool goes round a circle about where it is in the neutral pose, and back to it when it was carried
off: however often a process of the cell is killed, the arm stays within its reach.
"""

import contextlib
import math
import sys

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.executors import ExternalShutdownException
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import Image
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.profile import load_profile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.ros import qos
from openvla_ros.ros.executor import StaticSingleThreadedExecutor
from openvla_ros.ros.messages import from_pose, from_stamp, to_chunk_message
from openvla_ros.values.action import ActionChunk

CAMERA_HZ = 10.0
STEP_M, TURN_S = 0.025, 2.0  # a circle of 40 mm at 0.125 m/s
GAIN, CORRECTION_M = 0.2, 0.005  # of the way back to the circle, in one step, and at most


def policy(node, robot: str) -> None:
    profile = load_profile(robot)
    space = profile.space()
    publisher = node.create_publisher(JointTrajectory, "policy/action_chunk", qos.COMMAND)
    every = round(CAMERA_HZ / space.rate_hz)
    radius_m = STEP_M / (2 * math.sin(math.pi * space.step_s / TURN_S))
    centre = KinematicChain.from_profile(profile.arm).forward(profile.arm.neutral).position
    at = centre
    count = 0

    def note(message: PoseStamped) -> None:
        nonlocal at
        at = from_pose(message).position

    def answer(message: Image) -> None:
        nonlocal count
        count += 1
        if count % every:
            return
        stamp_ns = from_stamp(message.header.stamp)
        angle = 2 * math.pi * stamp_ns * 1e-9 / TURN_S
        along = np.array([math.cos(angle), math.sin(angle), 0.0])
        back = centre + radius_m * np.array([math.sin(angle), -math.cos(angle), 0.0]) - at
        back *= GAIN * min(1.0, CORRECTION_M / (GAIN * np.linalg.norm(back) + 1e-9))
        step = STEP_M * along + back
        action = np.array([[*step, 0.0, 0.0, 0.05 * math.cos(angle), 1.0]])
        chunk = ActionChunk(action, stamp_ns, space)
        publisher.publish(to_chunk_message(chunk, profile.action_frame_id()))

    node.create_subscription(PoseStamped, "controller/current_pose", note, qos.NEWEST_IN)
    node.create_subscription(Image, "scripted/image_raw", answer, qos.NEWEST_IN)


def main() -> None:
    rclpy.init()
    node = rclpy.create_node("scripted_policy")
    policy(node, *remove_ros_args(sys.argv)[1:])
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node, executor=StaticSingleThreadedExecutor())
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
