"""A camera or a policy by a script, as processes of their own that can be killed.

``camera`` publishes a small image 10 times a second. ``policy`` answers each image with a chunk
computed from nothing but time, stamped with the image's stamp: without images there are no chunks.
"""

import contextlib
import math
import sys

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import Image
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.profile import load_profile
from openvla_ros.ros import qos
from openvla_ros.ros.messages import from_stamp, to_chunk_message, to_image
from openvla_ros.values.action import ActionChunk

CAMERA_HZ = 10.0
STEP_M, TURN_S = 0.025, 2.0  # the tool goes round a circle of 40 mm at 0.125 m/s


def camera(node) -> None:
    publisher = node.create_publisher(Image, "scripted/image_raw", qos.STREAM_OUT)
    image = np.zeros((16, 16, 3), np.uint8)

    def publish() -> None:
        publisher.publish(to_image(image, node.get_clock().now().nanoseconds, "camera"))

    node.create_timer(1 / CAMERA_HZ, publish)


def policy(node, robot: str) -> None:
    profile = load_profile(robot)
    space = profile.space()
    publisher = node.create_publisher(JointTrajectory, "policy/action_chunk", qos.COMMAND)
    every = round(CAMERA_HZ / space.rate_hz)
    count = 0

    def answer(message: Image) -> None:
        nonlocal count
        count += 1
        if count % every:
            return
        stamp_ns = from_stamp(message.header.stamp)
        angle = 2 * math.pi * stamp_ns * 1e-9 / TURN_S
        dx, dy = STEP_M * math.cos(angle), STEP_M * math.sin(angle)
        action = np.array([[dx, dy, 0.0, 0.0, 0.0, 0.05 * math.cos(angle), 1.0]])
        chunk = ActionChunk(action, stamp_ns, space)
        publisher.publish(to_chunk_message(chunk, profile.action_frame_id()))

    node.create_subscription(Image, "scripted/image_raw", answer, qos.NEWEST_IN)


def main() -> None:
    role, *rest = remove_ros_args(sys.argv)[1:]
    rclpy.init()
    node = rclpy.create_node(f"scripted_{role}")
    if role == "camera":
        camera(node)
    else:
        policy(node, *rest)
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
