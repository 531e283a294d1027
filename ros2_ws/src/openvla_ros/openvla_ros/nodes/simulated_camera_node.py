"""One camera of the simulation, in its own process: renders the published simulation state.

Keeps a second copy of the MuJoCo scene, sets it to ``simulation/coordinates``, and publishes the image
with that message's stamp. So rendering never delays the physics, and a camera can fail on its own, like
a real one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sensor_msgs.msg import CameraInfo, JointState

from openvla_ros.errors import InvalidValueError, ProfileError, describe
from openvla_ros.nodes.simulation.simulation_topics import COORDINATES_PERIOD_S
from openvla_ros.profile import RobotProfile, load_profile
from openvla_ros.ros import process, qos
from openvla_ros.ros.diagnostics import DiagnosticsPublisher
from openvla_ros.ros.guard import CALLBACK_FAILED, GuardedNode, Refused
from openvla_ros.ros.image_messages import to_camera_info
from openvla_ros.ros.image_publisher import ImagePublisher
from openvla_ros.ros.messages import from_stamp
from openvla_ros.ros.parameters import declare, parameter
from openvla_ros.ros.worker import Worker
from openvla_ros.sim.tasks import Task, find_task
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.streams.throttle import Pacer
from openvla_ros.values.health import Health, LatencyHealth, ReasonCounter, StreamHealth
from openvla_ros.values.time import seconds


@dataclass(frozen=True)
class SimulatedCameraParameters:
    """The node's parameters: the camera and its robot."""

    robot: str = parameter("sim_widowx", "robot profile: a name or a YAML file", read_only=True)
    camera: str = parameter("primary", "camera of the profile", read_only=True)


class SimulatedCameraNode(GuardedNode):
    """Renders one camera on a worker thread; only the newest state is rendered."""

    def __init__(self) -> None:
        super().__init__("camera")
        settings = declare(self, SimulatedCameraParameters)
        self._profile = simulated_profile(settings.robot)
        self._camera = camera = self._profile.camera(settings.camera)
        self._robot: SimulatedRobot | None = None
        self._pacer = Pacer(1.0 / camera.rate_hz, COORDINATES_PERIOD_S)
        self._moments = StreamHealth("coordinates", camera.rate_hz, camera.max_age_s)
        self._drawing = LatencyHealth("drawing", 1.0 / camera.rate_hz)
        self._refusals = ReasonCounter("refusals")
        self._images = ImagePublisher(self, f"camera/{camera.name}/image_raw", camera.frame_id)
        self._infos = self.create_publisher(CameraInfo, f"camera/{camera.name}/camera_info", qos.STREAM_OUT)
        # A renderer belongs to the thread that draws with it.
        self._worker = Worker(f"draw {camera.name}", self._draw, self._broke, finish=self._close)
        if self._profile.simulation is not None:
            self._worker.put(find_task(self._profile.simulation.task))
        self.create_subscription(JointState, "simulation/coordinates", self._moment, qos.NEWEST_IN)
        self._diagnostics = DiagnosticsPublisher(self, self._collect_health)

    def stop(self) -> None:
        """Stop rendering and close the renderer."""
        if not self._worker.stop():
            self.get_logger().error("rendering of the current image did not finish in time")

    def _moment(self, message: JointState) -> None:
        stamp_ns = from_stamp(message.header.stamp)
        if self._pacer.due(stamp_ns):
            self._moments.received(stamp_ns, self.get_clock().now().nanoseconds)
            self._worker.put(message)

    def _draw(self, message: JointState | Task) -> None:
        if isinstance(message, Task):  # before the first state: opening a renderer takes as long as 50 images
            self._open_scene(message).render(self._camera.name)
            return
        task, _, seed = message.header.frame_id.partition("/")
        try:
            robot = self._open_scene(find_task(task))
            robot.show(int(seed), message.position)
        except (InvalidValueError, ValueError) as error:
            self._refusals.add("coordinates", str(error))
            return
        camera, stamp_ns = self._camera, from_stamp(message.header.stamp)
        lens = robot.intrinsics(camera.name)
        self._images.publish(robot.render(camera.name), stamp_ns)
        self._infos.publish(to_camera_info(lens, camera.width, camera.height, stamp_ns, camera.frame_id))
        self._drawing.add(seconds(self.get_clock().now().nanoseconds - stamp_ns))

    def _open_scene(self, task: Task) -> SimulatedRobot:
        if self._robot is None or self._robot.task is not task:
            if self._robot is not None:
                self._robot.close()
            self._robot = SimulatedRobot(self._profile, task)
        return self._robot

    def _close(self) -> None:
        if self._robot is not None:
            self._robot.close()

    def _broke(self, error: Exception) -> None:
        self.guard.refuse("drawing", Refused(CALLBACK_FAILED, describe(error)))

    def _collect_health(self) -> Iterable[Health]:
        now_ns = self.get_clock().now().nanoseconds
        return [self._moments.health(now_ns), self._drawing.health(), self._refusals.health()]


def simulated_profile(name: str) -> RobotProfile:
    """Return the profile ``name`` if it is a simulated robot; raises ``ProfileError`` saying why not."""
    profile = load_profile(name)
    if profile.simulation is None:
        raise ProfileError(f"robot {profile.name!r} is not simulated: its profile has no 'simulation' entry")
    for camera in profile.cameras:
        if camera.compressed:
            raise ProfileError(f"the simulation publishes raw images; camera {camera.name!r} is compressed")
    return profile


def main() -> None:
    """Run the node."""
    process.main(SimulatedCameraNode)


if __name__ == "__main__":
    main()
