"""What the simulation publishes of its robot: joint states, tf, images, and the ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, JointState
from std_msgs.msg import Bool, Header
from visualization_msgs.msg import MarkerArray

from openvla_ros.nodes.simulation.simulated_frames import RATE_HZ as FRAME_RATE_HZ
from openvla_ros.nodes.simulation.simulated_frames import FramePublisher
from openvla_ros.profile import CameraProfile, RobotProfile
from openvla_ros.ros import qos
from openvla_ros.ros.image_messages import to_camera_info
from openvla_ros.ros.image_publisher import ImagePublisher
from openvla_ros.ros.messages import to_stamp
from openvla_ros.ros.scene_messages import to_markers
from openvla_ros.sim.world import SimulatedRobot

SCENE_RATE_HZ = 20.0  # of the ground truth and the success flag
COORDINATES_PERIOD_S = 0.02  # how often what there is to draw is published


class DueTimes:
    """When something is done next that is done at its own rate, in simulated seconds."""

    def __init__(self) -> None:
        self._due_s: dict[str, float] = {}

    def when_due(self, name: str, rate_hz: float, elapsed_s: float, act: Callable[[], None]) -> None:
        """Call ``act`` if ``name``, which is done ``rate_hz`` times a second from 0 on, is due by now."""
        due_s = self._due_s.setdefault(name, 0.0)
        if elapsed_s >= due_s - 1e-9:
            self._due_s[name] = due_s + 1.0 / rate_hz
            act()


class SimulationTopics:
    """The topics of one simulated robot; each is published at its own rate."""

    def __init__(self, node: Node, profile: RobotProfile, cameras: Sequence[CameraProfile]) -> None:
        """``cameras`` are drawn here; without any, the coordinates go to the nodes that draw."""
        self._profile, self._cameras = profile, cameras
        self._due = DueTimes()
        self._states = node.create_publisher(JointState, "joint_states", qos.STREAM_OUT)
        self._frames = FramePublisher(node, profile)
        self._scenes = node.create_publisher(MarkerArray, "simulation/scene", qos.STREAM_OUT)
        self._moments = node.create_publisher(JointState, "simulation/coordinates", qos.STREAM_OUT)
        self._successes = node.create_publisher(Bool, "task/success", qos.STREAM_OUT)
        self._images = {
            camera.name: ImagePublisher(node, f"camera/{camera.name}/image_raw", camera.frame_id)
            for camera in cameras
        }
        self._infos = {
            camera.name: node.create_publisher(
                CameraInfo, f"camera/{camera.name}/camera_info", qos.STREAM_OUT
            )
            for camera in cameras
        }

    def publish(self, robot: SimulatedRobot, elapsed_s: float, now_ns: int) -> None:
        """Publish the joint states, and what else is due at ``elapsed_s``."""
        self._publish_state(robot, now_ns)
        rates: list[tuple[str, float, Callable[[SimulatedRobot, int], None]]] = [
            ("frames", FRAME_RATE_HZ, self._frames.publish),
            ("scene", SCENE_RATE_HZ, self._publish_scene),
        ]
        if not self._cameras:
            rates.append(("coordinates", 1.0 / COORDINATES_PERIOD_S, self._publish_moment))
        for camera in self._cameras:
            rates.append((camera.name, camera.rate_hz, partial(self._publish_image, camera)))
        for name, rate_hz, publish in rates:
            self._due.when_due(name, rate_hz, elapsed_s, partial(publish, robot, now_ns))

    def _publish_state(self, robot: SimulatedRobot, now_ns: int) -> None:
        message = JointState(header=Header(stamp=to_stamp(now_ns)))
        position, velocity, effort = robot.gripper_joint
        message.name = [*self._profile.arm.joints, self._profile.gripper.joint]
        message.position = [*robot.joint_positions.tolist(), position]
        message.velocity = [*robot.joint_velocities.tolist(), velocity]
        message.effort = [*robot.joint_efforts.tolist(), effort]
        self._states.publish(message)

    def _publish_scene(self, robot: SimulatedRobot, now_ns: int) -> None:
        if self._scenes.get_subscription_count():
            arm = self._profile.arm
            self._scenes.publish(to_markers(robot.scene(), now_ns, arm.frame_prefix + arm.base_link))
        self._successes.publish(Bool(data=robot.success))

    def _publish_moment(self, robot: SimulatedRobot, now_ns: int) -> None:
        """Publish all coordinates; the frame id names what they belong to, as task/seed."""
        layout = f"{robot.task.name}/{robot.layout.seed}"
        message = JointState(header=Header(stamp=to_stamp(now_ns), frame_id=layout))
        message.position = robot.coordinates.tolist()
        self._moments.publish(message)

    def _publish_image(self, camera: CameraProfile, robot: SimulatedRobot, now_ns: int) -> None:
        self._images[camera.name].publish(robot.render(camera.name), now_ns)
        lens = robot.intrinsics(camera.name)
        info = to_camera_info(lens, camera.width, camera.height, now_ns, camera.frame_id)
        self._infos[camera.name].publish(info)
