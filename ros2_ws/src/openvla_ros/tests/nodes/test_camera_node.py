"""The camera node over DDS: recordings to the bit, devices that are unplugged, clean exits."""

import signal

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import CameraInfo, Image
from support.node_processes import DISCOVERY_S, Listener, NodeProcess

from openvla_ros.data.episodes.video_files import VideoWriter
from openvla_ros.preprocessing.image_encoding import encode_png
from openvla_ros.ros import qos
from openvla_ros.ros.image_messages import from_image
from openvla_ros.ros.messages import from_stamp

pytestmark = pytest.mark.ros

IMAGES = np.random.default_rng(1).integers(0, 256, (10, 48, 64, 3), np.uint8)
CALIBRATION = """
image_width: 64
image_height: 48
camera_matrix: {data: [60.0, 0.0, 32.0, 0.0, 61.0, 24.0, 0.0, 0.0, 1.0]}
distortion_model: plumb_bob
distortion_coefficients: {data: [0.1, 0.0, 0.0, 0.0, 0.0]}
"""


def test_a_folder_crosses_dds_to_the_bit_on_an_exact_time_grid(ros_domain, tmp_path):
    for i, image in enumerate(IMAGES):
        (tmp_path / f"{i}.png").write_bytes(encode_png(image))
    (tmp_path / "lens.yaml").write_text(CALIBRATION)
    parameters = {
        "source": "images", "path": tmp_path, "playback_rate_hz": 20.0, "wait_for_subscribers": 1,
        "calibration": tmp_path / "lens.yaml",
    }  # fmt: skip
    with Listener() as ear, NodeProcess("openvla_ros.nodes.camera_node", parameters) as camera:
        infos = ear.collect(CameraInfo, "camera/primary/camera_info", qos.COMMAND)
        images = ear.collect(Image, "camera/primary/image_raw", qos.COMMAND)
        assert ear.spin_until(lambda: infos and len(images) == len(IMAGES)), camera.output
        assert ear.spin_until(lambda: "played to its end" in camera.output), camera.output
        assert camera.stop(signal.SIGINT) == 0
    np.testing.assert_array_equal([from_image(m) for m in images], IMAGES)
    stamps = np.array([from_stamp(m.header.stamp) for m in images])
    np.testing.assert_array_equal(np.diff(stamps), 50_000_000)
    assert {m.header.frame_id for m in images} == {"camera_primary_optical_frame"}
    assert (infos[0].k[4], infos[0].d[0], infos[0].width) == (61.0, 0.1, 64)
    assert "Traceback" not in camera.output


def test_an_av1_video_is_played_again_and_again(ros_domain, tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 20.0, "av1") as video:
        for image in IMAGES[:4]:
            video.add(image)
    parameters = {"source": "video", "path": tmp_path / "a.mp4", "loop": True}
    with Listener() as ear, NodeProcess("openvla_ros.nodes.camera_node", parameters) as camera:
        images = ear.collect(Image, "camera/primary/image_raw", qos.COMMAND)
        assert ear.spin_until(lambda: len(images) > 2 * 4), camera.output
        assert camera.stop(signal.SIGINT) == 0
    assert len(camera.output.splitlines()) < 20


def test_a_recording_that_cannot_be_played_so_fast_is_played_more_slowly_with_true_stamps(
    ros_domain, tmp_path
):
    large = np.zeros((1500, 2000, 3), np.uint8)  # no machine decodes a thousand of them in a second
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(encode_png(large))
    parameters = {"source": "images", "path": tmp_path, "playback_rate_hz": 1000.0, "loop": True}
    with Listener() as ear, NodeProcess("openvla_ros.nodes.camera_node", parameters) as camera:
        reports = ear.collect(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)

        def images() -> dict[str, str]:
            found = [s for r in reports for s in r.status if s.name == "camera: images"]
            return {v.key: v.value for v in found[-1].values} if found else {}

        assert ear.spin_until(lambda: int(images().get("received", 0)) > 60), camera.output
        ear.spin_until(lambda: False, 2.0)
        values = images()
        assert float(values["rate_hz"]) < 500.0
        assert 0.0 <= float(values["latency_ms_max"]) < 1000.0
        assert camera.stop() == 0


UNPLUGGABLE = """
import sys, time
from pathlib import Path
import numpy as np
from openvla_ros.cameras.protocol import Frame
from openvla_ros.cameras.reconnecting import ReconnectingCamera
from openvla_ros.errors import DeviceError
from openvla_ros.nodes import camera_node

class Plug:
    playback_rate_hz = intrinsics = None
    description = "fake device"
    plug = Path(%r)
    def open(self):
        if not self.plug.exists():
            raise DeviceError("fake device: cannot be opened")
    def read(self, timeout_s):
        time.sleep(0.02)
        if not self.plug.exists():
            raise DeviceError("fake device: gone")
        return Frame(np.zeros((48, 64, 3), np.uint8), None)
    def close(self):
        pass

camera_node.load_camera = lambda options, profile: ReconnectingCamera(Plug(), first_delay_s=0.1)
camera_node.main()
"""


EMPTY = """
from openvla_ros.nodes import camera_node

class Empty:
    intrinsics = None
    playback_rate_hz = 10.0
    description = "empty recording"
    def open(self):
        pass
    def read(self, timeout_s):
        return None
    def close(self):
        pass

camera_node.load_camera = lambda options, profile: Empty()
camera_node.main()
"""


def test_a_recording_without_an_image_is_an_error_and_is_not_played_again(ros_domain):
    with Listener() as ear, NodeProcess(EMPTY, {"loop": True}) as camera:
        assert ear.spin_until(lambda: "empty recording: contains no image" in camera.output), camera.output
        ear.spin_for(0.5)
        assert camera.stop() == 0
    assert "played to its end" not in camera.output
    assert len(camera.output.splitlines()) < 10


def test_an_unplugged_device_is_reported_and_comes_back(ros_domain, tmp_path):
    plug = tmp_path / "plug"
    plug.touch()
    with Listener() as ear, NodeProcess(UNPLUGGABLE % str(plug)) as camera:
        images = ear.collect(Image, "camera/primary/image_raw", qos.NEWEST_IN)
        reports = ear.collect(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)

        def source_says(text):
            return any(text in s.message for r in reports for s in r.status if s.name.endswith("source"))

        def reconnected(report):
            values = {v.key: v.value for s in report.status for v in s.values}
            return values.get("reconnected") == "1" and values.get("state") == "open"

        assert ear.spin_until(lambda: len(images) > 10), camera.output
        plug.unlink()
        assert ear.spin_until(lambda: source_says("fake device: ")), camera.output
        ear.spin_for(0.3)
        images.clear()
        plug.touch()
        assert ear.spin_until(lambda: len(images) > 10), camera.output
        assert ear.spin_until(lambda: any(reconnected(r) for r in reports)), camera.output
        assert camera.stop() == 0
    assert "camera is back: fake device" in camera.output
    assert "Traceback" not in camera.output


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"source": "images", "path": "/nowhere"}, "contains no .jpg"),
        ({"source": "video"}, "needs a path"),
        ({"source": "usb", "device": "/dev/none"}, "cannot open it; devices on this machine"),
        ({"source": "telepathy"}, "must be one of profile, usb, realsense"),
        ({"camera": "wrist"}, "has no camera 'wrist'; its cameras: primary"),
    ],
)
def test_a_camera_that_cannot_start_says_why_and_ends_with_1(ros_domain, parameters, message):
    with NodeProcess("openvla_ros.nodes.camera_node", parameters) as camera:
        assert camera.process.wait(DISCOVERY_S) == 1
        camera.stop()
    assert message in camera.output
    assert "Traceback" not in camera.output
