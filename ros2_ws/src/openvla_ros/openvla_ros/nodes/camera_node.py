"""One camera as a ROS 2 node: a device, or a recording played at its rate.

Publishes ``camera/<name>/image_raw`` and ``camera/<name>/camera_info`` of the profile's camera,
``image_raw/compressed`` to whoever subscribes to it, and aligned depth if the device has it. A thread waits
for the device; the executor only serves parameters, transitions and diagnostics.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CameraInfo, Image
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.cameras.calibration import read_calibration
from openvla_ros.cameras.factory import SOURCES, CameraOptions, chosen_source, load_camera
from openvla_ros.cameras.playback import Playback
from openvla_ros.cameras.protocol import Camera, Frame, Intrinsics
from openvla_ros.cameras.reconnecting import ReconnectingCamera
from openvla_ros.errors import DeviceError, OpenVLARosError
from openvla_ros.profile import load_profile
from openvla_ros.ros import process, qos
from openvla_ros.ros.diagnostics import DiagnosticsPublisher
from openvla_ros.ros.guard import GuardedLifecycleNode
from openvla_ros.ros.image_messages import to_camera_info, to_depth_image
from openvla_ros.ros.image_publisher import JPEG_QUALITY, ImagePublisher, JpegPublisher
from openvla_ros.ros.messages import from_stamp
from openvla_ros.ros.parameters import declare, parameter, watch
from openvla_ros.values.health import Health, Level, StreamHealth
from openvla_ros.values.time import seconds

# A device counts as gone after this many periods without an image, and at least this many seconds.
SILENT_PERIODS, SILENT_S = 10, 1.0
# How long the capture thread may take to notice that it should end.
POLL_S = 0.25
# From the first matched subscriber to the first image: the other side's matching takes as long.
SETTLE_S = 0.5
# How far a recording's images may lag behind the clock, less than the age limit of any profile. A player
# that cannot keep up then plays more slowly, so that its stamps do not get older and older.
LAG_NS = 250_000_000
# In lock step: how long a policy may take over one image.
ANSWER_S = 60.0


@dataclass(frozen=True)
class CameraParameters:
    """The node's parameters; the image's size, rate and frame come from the profile."""

    robot: str = parameter("sim_widowx", "robot profile: a name or a YAML file", read_only=True)
    camera: str = parameter("primary", "which camera of the profile", read_only=True)
    source: str = parameter("profile", "image source", read_only=True, choices=("profile", *SOURCES))
    device: str = parameter("", "USB: device path or number; RealSense: serial number", read_only=True)
    path: str = parameter("", "video file, folder of images, or dataset to play", read_only=True)
    pixel_format: str = parameter("", "USB: four-letter pixel format, such as MJPG", read_only=True)
    depth: bool = parameter(True, "RealSense: publish depth aligned to colour", read_only=True)
    episode: int = parameter(0, "episode of the dataset, from 0", read_only=True, low=0, high=10_000_000)
    episode_camera: str = parameter(
        "", "camera of the episode; empty: the one with the same name", read_only=True
    )
    calibration: str = parameter("", "lens calibration file from camera_calibration", read_only=True)
    playback_rate_hz: float = parameter(
        0.0, "recordings: playback rate, Hz; 0: the recording's own", low=0.0, high=1000.0
    )
    loop: bool = parameter(False, "recordings: restart at the end")
    wait_for_subscribers: int = parameter(
        0, "recordings: wait for this many subscribers before playing", read_only=True, low=0, high=100
    )
    lock_step: bool = parameter(
        False, "recordings: wait for the policy's answer before publishing the next image", read_only=True
    )
    jpeg_quality: int = parameter(
        JPEG_QUALITY, "JPEG quality of image_raw/compressed, or of a compressed camera", low=50, high=100
    )
    autostart: bool = parameter(True, "configure and activate at start", read_only=True)


class CameraNode(GuardedLifecycleNode):
    """Publishes one camera of the robot's profile."""

    def __init__(self) -> None:
        super().__init__("camera")
        self._settings = declare(self, CameraParameters)
        watch(self, CameraParameters, self._settings_changed)
        self._profile = load_profile(self._settings.robot).camera(self._settings.camera)
        self._health = StreamHealth("images", self._profile.rate_hz, self._profile.max_age_s)
        self._camera: Camera | None = None
        self._calibration: Intrinsics | None = None
        self._stopping = threading.Event()
        self._answered, self._answer_ns = threading.Condition(), 0
        self._thread: threading.Thread | None = None
        self._state = Health("source", "ok", "not open yet", {})
        self._diagnostics = DiagnosticsPublisher(self, self._collect_health)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Choose the source and create the publishers."""
        p = self._settings
        try:
            source, device, path = chosen_source(self._profile, p.source, p.device, p.path)
            options = CameraOptions(
                source=source,
                device=device,
                path=path,
                pixel_format=p.pixel_format,
                depth=p.depth,
                episode=p.episode,
                episode_camera=p.episode_camera,
            )
            self._camera = load_camera(options, self._profile)
            self._calibration = read_calibration(Path(p.calibration)) if p.calibration else None
        except OpenVLARosError as error:
            return self.fail(str(error))
        prefix, frame_id = f"camera/{self._profile.name}", self._profile.frame_id
        publisher = JpegPublisher if self._profile.compressed else ImagePublisher
        self._images = publisher(self, f"{prefix}/image_raw", frame_id, lambda: self._settings.jpeg_quality)
        self._infos = self.create_publisher(CameraInfo, f"{prefix}/camera_info", qos.STREAM_OUT)
        self._depths = self.create_publisher(
            Image, f"{prefix}/aligned_depth_to_color/image_raw", qos.IMAGE_OUT
        )
        if p.lock_step:
            self._answers = self.create_subscription(
                JointTrajectory, "policy/action_chunk", self._answer, qos.COMMAND
            )
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the source and start publishing."""
        assert self._camera is not None
        try:
            self._camera.open()
        except OpenVLARosError as error:
            return self.fail(str(error))
        self.get_logger().info(f"{self._profile.name}: {self._camera.description}")
        self._stopping.clear()
        target = self._capture if self._camera.playback_rate_hz is None else self._play
        self._thread = threading.Thread(target=target, args=(self._camera,), name="camera")
        self._thread.start()
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop publishing and close the camera."""
        self._end_thread()
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Destroy the source and the publishers."""
        self._camera = None
        if self._settings.lock_step:
            self.destroy_subscription(self._answers)
        self._images.destroy()
        for publisher in (self._infos, self._depths):
            self.destroy_publisher(publisher)
        return TransitionCallbackReturn.SUCCESS

    def stop(self) -> None:
        """Stop the thread and close the camera."""
        self._end_thread()

    def _end_thread(self) -> None:
        self._stopping.set()
        with self._answered:
            self._answered.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._camera is not None:
            self._camera.close()

    def _settings_changed(self, parameters: CameraParameters) -> None:
        self._settings = parameters

    def _capture(self, camera: Camera) -> None:
        """Publish a device's images until stopped; the thread of a live camera."""
        silence_s = max(SILENT_S, SILENT_PERIODS / self._profile.rate_hz)
        while not self._stopping.is_set():
            try:
                frame = camera.read(silence_s)
            except OpenVLARosError as error:
                self._report("error", str(error))
                self._stopping.wait(POLL_S)
                continue
            if frame is not None:
                self._report("ok", camera.description)
                self._publish(frame, frame.stamp_ns or self._now_ns())

    def _play(self, camera: Camera) -> None:
        """Publish a recording at its rate until its end; the thread of a recording."""
        if not self._wait_for_subscribers():
            return
        rate_hz = self._settings.playback_rate_hz or camera.playback_rate_hz or self._profile.rate_hz
        playback, any_image = Playback(rate_hz, self._now_ns()), False
        try:
            while not self._stopping.is_set():
                frame = camera.read(SILENT_S)
                if frame is None and not any_image:
                    raise DeviceError(f"{camera.description}: contains no image")
                any_image = frame is not None
                if frame is None and self._settings.loop:
                    camera.open()
                    continue
                if frame is None:
                    self._report("ok", f"{camera.description}: played to its end")
                    self.get_logger().info(self._state.message)
                    return
                stamp_ns = playback.next_stamp_ns()
                self._stopping.wait(seconds(max(0, stamp_ns - self._now_ns())))
                self._report("ok", camera.description)
                self._publish(frame, stamp_ns)
                if self._settings.lock_step:
                    self._wait_for_answer(stamp_ns)
                if self._settings.lock_step or self._now_ns() - stamp_ns > LAG_NS:
                    playback.postpone(self._now_ns())
        except OpenVLARosError as error:
            self._report("error", str(error))
            self.get_logger().error(str(error))

    def _wait_for_subscribers(self) -> bool:
        """Wait for the subscribers that the parameter asks for; return whether to continue."""
        wanted = self._settings.wait_for_subscribers
        while self._images.subscribers < wanted:
            self._report("warn", f"waiting for {wanted} subscribers")
            if self._stopping.wait(POLL_S):
                return False
        return not (wanted and self._stopping.wait(SETTLE_S))

    def _wait_for_answer(self, stamp_ns: int) -> None:
        """Wait for the chunk computed from the image with this stamp; warn if none arrives."""
        with self._answered:
            if not self._answered.wait_for(
                lambda: self._answer_ns >= stamp_ns or self._stopping.is_set(), ANSWER_S
            ):
                self.get_logger().warning(f"no action chunk for an image within {ANSWER_S:g} s: continuing")

    def _answer(self, message: JointTrajectory) -> None:
        with self._answered:
            self._answer_ns = from_stamp(message.header.stamp)
            self._answered.notify()

    def _publish(self, frame: Frame, stamp_ns: int) -> None:
        frame_id = self._profile.frame_id
        self._images.publish(frame.rgb, stamp_ns)
        height, width = frame.rgb.shape[:2]
        assert self._camera is not None
        intrinsics = self._calibration or self._camera.intrinsics
        self._infos.publish(to_camera_info(intrinsics, width, height, stamp_ns, frame_id))
        if frame.depth is not None:
            self._depths.publish(to_depth_image(frame.depth, stamp_ns, frame_id))
        self._health.received(stamp_ns, self._now_ns())

    def _report(self, level: Level, message: str) -> None:
        values = {}
        if isinstance(self._camera, ReconnectingCamera):
            values = {"state": self._camera.state, "reconnected": str(self._camera.reconnected_count)}
        if level == "error" and self._state.level != "error":
            self.get_logger().warning(message)
        elif level == "ok" and self._state.level == "error":
            self.get_logger().info(f"camera is back: {message}")
        self._state = Health("source", level, message, values)

    def _collect_health(self) -> list[Health]:
        return [self._state, self._health.health(self._now_ns())]

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def main() -> None:
    """Run the node as a program."""
    process.main(CameraNode)


if __name__ == "__main__":
    main()
