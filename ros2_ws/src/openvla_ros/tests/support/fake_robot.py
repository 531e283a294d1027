"""A pretended robot for node tests: the topics of a profile, with known messages, over real DDS."""

import threading

import numpy as np
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from support.waiting import DISCOVERY_S, wait_until
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.ros import qos
from openvla_ros.ros.executor import StaticSingleThreadedExecutor
from openvla_ros.ros.messages import to_chunk_message, to_image, to_stamp
from openvla_ros.values.action import ActionChunk


class PretendedRobot(Node):
    """Publishes images, joint states and a policy's chunks; keeps what it sent."""

    def __init__(self, profile, state_hz=100.0):
        super().__init__("pretended_robot")
        self.profile = profile
        self.sent = {"images": {}, "states": {}, "chunks": {}}
        self.muted: set[str] = set()
        self.rng = np.random.default_rng(0)
        self._images = {}
        for camera in profile.cameras:
            folder = f"camera/{camera.name}"
            self._images[camera.name] = self.create_publisher(Image, f"{folder}/image_raw", qos.IMAGE_OUT)
            info = self.create_publisher(CameraInfo, f"{folder}/camera_info", qos.LATCHED)
            info.publish(CameraInfo(height=camera.height, width=camera.width))
            self.create_timer(1 / camera.rate_hz, lambda name=camera.name: self.publish_image(name))
        self._states = self.create_publisher(JointState, "joint_states", qos.STREAM_OUT)
        self._chunks = self.create_publisher(JointTrajectory, "policy/action_chunk", qos.COMMAND)
        self._words = self.create_publisher(String, "instruction", qos.LATCHED)
        self.create_timer(1 / state_hz, self.publish_state)
        self.create_timer(0.2, self.publish_chunk)
        self._count = 0

    def say(self, text):
        self._words.publish(String(data=text))

    def now_ns(self):
        return self.get_clock().now().nanoseconds

    def is_heard(self):
        """Whether someone subscribes to the images and to the joint states."""
        return all(p.get_subscription_count() for p in (*self._images.values(), self._states))

    def publish_image(self, name):
        if name in self.muted:
            return
        camera, stamp = self.profile.camera(name), self.now_ns()
        image = self.rng.integers(0, 255, (camera.height, camera.width, 3), dtype=np.uint8)
        self._images[name].publish(to_image(image, stamp, camera.frame_id))
        self.sent["images"][stamp] = image

    def publish_state(self):
        stamp, arm = self.now_ns(), self.profile.arm
        self._count += 1
        positions = [*(np.array(arm.neutral) + 0.1 * np.sin(self._count / 50)), 0.03]
        message = JointState(name=[*arm.joints, self.profile.gripper.joint], position=positions)
        message.header.stamp = to_stamp(stamp)
        self._states.publish(message)
        self.sent["states"][stamp] = np.array(positions)

    def publish_chunk(self):
        if not self.sent["images"]:
            return
        stamp, space = max(self.sent["images"]), self.profile.space()
        action = self.rng.uniform(space.lower, space.upper)
        chunk = ActionChunk(action[None], stamp, space)
        self._chunks.publish(to_chunk_message(chunk, self.profile.action_frame_id()))
        self.sent["chunks"][stamp] = action


class Spinning:
    """Spins nodes of this process on a thread of their own until the end of the block."""

    def __init__(self, *nodes):
        self.nodes = nodes

    def __enter__(self):
        self._executor = StaticSingleThreadedExecutor()
        for node in self.nodes:
            self._executor.add_node(node)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()
        return self

    def _spin(self):
        while not self._stopping.is_set():
            self._executor.spin_once(timeout_sec=0.05)

    def __exit__(self, *_):
        self._stopping.set()
        self._thread.join()
        for node in self.nodes:
            if hasattr(node, "stop"):
                node.stop()
        self._executor.shutdown()
        for node in self.nodes:
            node.destroy_node()


def call(node, name, timeout_s=DISCOVERY_S):
    """Call a Trigger service from outside the executor's thread; return its response."""
    client = node.create_client(Trigger, name)
    assert client.wait_for_service(timeout_sec=timeout_s), name
    future = client.call_async(Trigger.Request())
    wait_until(future.done, timeout_s)
    return future.result()


def init():
    """Initialise rclpy in a test that runs nodes in its own process."""
    if not rclpy.ok():
        rclpy.init()
