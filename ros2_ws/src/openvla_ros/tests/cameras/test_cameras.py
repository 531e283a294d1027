"""Sources of images against fake devices behind the same interface, and recordings on disk."""

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from openvla_ros.cameras import usb
from openvla_ros.cameras.calibration import read_calibration
from openvla_ros.cameras.factory import CameraOptions, chosen_source, load_camera
from openvla_ros.cameras.playback import Playback
from openvla_ros.cameras.playback_sources import EpisodeCamera, ImageFolderCamera
from openvla_ros.cameras.protocol import Camera, Frame
from openvla_ros.cameras.realsense import RealSenseCamera
from openvla_ros.cameras.reconnecting import ReconnectingCamera
from openvla_ros.data.episodes.encoded_images import ArrayFrames
from openvla_ros.errors import DatasetError, DeviceError, InvalidValueError, ProfileError
from openvla_ros.preprocessing.image_encoding import encode_png
from openvla_ros.profile import CameraSource, load_profile
from openvla_ros.values.episode import Episode

PROFILE = load_profile("sim_widowx")
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 10, 3), np.uint8)


class FakeClock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class FakeDevice:
    """A camera with a plug."""

    playback_rate_hz = None
    intrinsics = None
    description = "fake camera"

    def __init__(self):
        self.plugged, self.is_open, self.opened, self.closed = True, False, 0, 0

    def open(self):
        if not self.plugged:
            raise DeviceError("fake camera: not there")
        self.is_open, self.opened = True, self.opened + 1

    def read(self, timeout_s):
        if not (self.plugged and self.is_open):
            raise DeviceError("fake camera: gone")
        return Frame(IMAGES[0], 7)

    def close(self):
        self.is_open, self.closed = False, self.closed + 1


def reconnecting():
    device, clock = FakeDevice(), FakeClock()
    camera = ReconnectingCamera(
        device, first_delay_s=0.5, longest_delay_s=4.0, clock=clock, sleep=clock.sleep
    )
    return device, clock, camera


def test_a_camera_comes_back_after_it_was_unplugged():
    device, clock, camera = reconnecting()
    camera.open()
    assert camera.read(1.0).stamp_ns == 7
    device.plugged = False
    with pytest.raises(DeviceError, match="gone"):
        camera.read(1.0)
    assert (camera.state, device.is_open) == ("waiting", False)
    device.plugged = True
    with pytest.raises(DeviceError, match=r"gone; retrying in 0\.4 s"):
        camera.read(0.1)
    assert clock.now == pytest.approx(0.1)
    assert camera.read(1.0).stamp_ns == 7
    assert clock.now == pytest.approx(0.5)
    assert (camera.state, camera.reconnected_count, device.opened) == ("open", 1, 2)


def test_the_delay_doubles_up_to_its_limit_and_falls_back_after_a_image():
    device, clock, camera = reconnecting()
    camera.open()
    device.plugged = False
    attempts, attempt = [], device.open

    def noted_attempt():
        attempts.append(clock.now)
        attempt()

    device.open = noted_attempt
    while clock.now < 20.0:
        with pytest.raises(DeviceError):
            camera.read(0.25)
    assert np.diff([0.0, *attempts]) == pytest.approx([0.5, 1.0, 2.0, 4.0, 4.0, 4.0, 4.0])
    device.plugged = True
    camera.read(10.0)
    device.plugged = False
    with pytest.raises(DeviceError):
        camera.read(1.0)
    failed_at, device.plugged = clock.now, True
    camera.read(10.0)
    assert clock.now - failed_at == pytest.approx(0.5)


def test_a_camera_that_was_never_there_is_reported_at_once():
    device, _, camera = reconnecting()
    device.plugged = False
    with pytest.raises(DeviceError, match="not there"):
        camera.open()
    with pytest.raises(DeviceError, match="not open"):
        camera.read(1.0)


class FakeCapture:
    """What cv2.VideoCapture does, for one device of 640x480."""

    def __init__(self, opened=True, size=(640, 480), age_ms=20.0):
        self.opened, self.size, self.age_ms, self.settings = opened, size, age_ms, {}
        self.gives, self.released = True, False

    def isOpened(self):  # noqa: N802 - the library's own name
        return self.opened

    def set(self, key, value):
        self.settings[key] = value
        return True

    def get(self, key):
        if key == cv2.CAP_PROP_POS_MSEC:
            return usb.time.monotonic_ns() / 1e6 - self.age_ms
        return {cv2.CAP_PROP_FRAME_WIDTH: self.size[0], cv2.CAP_PROP_FRAME_HEIGHT: self.size[1]}[key]

    def read(self):
        if not self.gives:
            return False, None
        return True, np.full((480, 640, 3), (1, 2, 3), np.uint8)

    def release(self):
        self.released = True


def usb_camera(capture, ready=True, **options):
    return usb.UsbCamera(
        "/dev/video7", 640, 480, 30.0, open_capture=lambda device: capture, wait=lambda c, t: ready, **options
    )


def test_a_usb_camera_gives_rgb_with_the_drivers_stamp():
    capture = FakeCapture()
    camera = usb_camera(capture, pixel_format="MJPG")
    camera.open()
    assert capture.settings[cv2.CAP_PROP_FOURCC] == cv2.VideoWriter.fourcc(*"MJPG")
    assert capture.settings[cv2.CAP_PROP_BUFFERSIZE] == 1
    frame = camera.read(1.0)
    assert frame.rgb[0, 0].tolist() == [3, 2, 1]
    age_ms = (usb.time.time_ns() - frame.stamp_ns) / 1e6
    assert 20.0 <= age_ms < 500.0
    camera.close()
    assert capture.released


def test_a_stamp_of_another_clock_is_not_believed():
    camera = usb_camera(FakeCapture(age_ms=1e7))
    camera.open()
    before = usb.time.time_ns()
    assert before <= camera.read(1.0).stamp_ns <= usb.time.time_ns()


@pytest.mark.parametrize(
    ("capture", "ready", "message"),
    [
        (FakeCapture(opened=False), True, "/dev/video7, 640x480 at 30 Hz: cannot open it; devices"),
        (FakeCapture(size=(320, 240)), True, "delivers 320x240 instead"),
        (FakeCapture(), False, "no image within 1 s"),
    ],
)
def test_what_a_usb_camera_does_wrong_is_said(capture, ready, message):
    camera = usb_camera(capture, ready)
    with pytest.raises(DeviceError, match=message):  # noqa: PT012 - either call may be the one
        camera.open()
        camera.read(1.0)


def test_a_usb_camera_that_stops_is_an_error_and_reconnects():
    capture = FakeCapture()
    camera = ReconnectingCamera(usb_camera(capture), first_delay_s=0.0, sleep=lambda s: None)
    camera.open()
    capture.gives = False
    with pytest.raises(DeviceError, match="is it still plugged in"):
        camera.read(1.0)
    assert capture.released
    capture.gives = True
    assert camera.read(1.0).rgb.shape == (480, 640, 3)


class FakeRealSense:
    """The part of pyrealsense2 that is used, for one camera with serial 42."""

    class stream:  # noqa: N801 - the library's own names
        color, depth = "color", "depth"

    class format:  # noqa: N801
        rgb8, z16 = "rgb8", "z16"

    class timestamp_domain:  # noqa: N801
        global_time, system_time, hardware_clock = 2, 1, 0

    class camera_info:  # noqa: N801
        serial_number = "serial_number"

    def __init__(self):
        self.plugged, self.stopped, self.domain = True, 0, 2
        self.colour = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
        self.counts = np.arange(24, dtype=np.uint16).reshape(4, 6) * 100

    def config(self):
        return SimpleNamespace(enable_device=lambda serial: None, enable_stream=lambda *a: None)

    def context(self):
        found = [SimpleNamespace(get_info=lambda key: "42")] if self.plugged else []
        return SimpleNamespace(query_devices=lambda: found)

    def align(self, stream):
        return SimpleNamespace(process=lambda frames: frames)

    def pipeline(self):
        lens = SimpleNamespace(width=6, height=4, fx=5.0, fy=5.5, ppx=3.0, ppy=2.0, coeffs=[0.1, 0, 0, 0, 0])
        sensor = SimpleNamespace(get_depth_scale=lambda: 0.001)
        profile = SimpleNamespace(
            get_device=lambda: SimpleNamespace(first_depth_sensor=lambda: sensor),
            get_stream=lambda kind: SimpleNamespace(
                as_video_stream_profile=lambda: SimpleNamespace(get_intrinsics=lambda: lens)
            ),
        )

        def start(config):
            if not self.plugged:
                raise RuntimeError("No device connected")
            return profile

        def wait(timeout_ms):
            if not self.plugged:
                raise RuntimeError(f"Frame didn't arrive within {timeout_ms}")
            colour = SimpleNamespace(
                get_data=lambda: self.colour,
                get_timestamp=lambda: 1500.25,
                get_frame_timestamp_domain=lambda: self.domain,
            )
            depth = SimpleNamespace(get_data=lambda: self.counts)
            return SimpleNamespace(get_color_frame=lambda: colour, get_depth_frame=lambda: depth)

        def stop():
            self.stopped += 1
            if not self.plugged:
                raise RuntimeError("gone")

        return SimpleNamespace(start=start, wait_for_frames=wait, stop=stop)


def test_a_realsense_gives_colour_depth_in_metres_its_stamp_and_its_lens():
    library = FakeRealSense()
    camera = RealSenseCamera("42", 6, 4, 30.0, library=library)
    camera.open()
    frame = camera.read(1.0)
    library.colour[:] = 0  # the library reuses its buffers
    assert frame.rgb[3, 5].tolist() == [69, 70, 71]
    assert np.isnan(frame.depth[0, 0])
    np.testing.assert_allclose(frame.depth.ravel()[1:], np.arange(1, 24) * 0.1, rtol=1e-6)
    assert frame.stamp_ns == 1_500_250_000
    assert camera.intrinsics.matrix.tolist() == [[5.0, 0.0, 3.0], [0.0, 5.5, 2.0], [0.0, 0.0, 1.0]]
    library.domain = 0
    assert abs(camera.read(1.0).stamp_ns - usb.time.time_ns()) < 1_000_000_000


def test_a_realsense_recovers_from_being_unplugged():
    library = FakeRealSense()
    device = RealSenseCamera("", 6, 4, 30.0, library=library)
    camera = ReconnectingCamera(device, first_delay_s=0.0, sleep=lambda s: None)
    camera.open()
    library.plugged = False
    with pytest.raises(DeviceError, match="didn't arrive within 1000"):
        camera.read(1.0)
    with pytest.raises(DeviceError, match="No device connected; RealSense cameras found: none"):
        camera.read(1.0)
    library.plugged = True
    assert camera.read(1.0).depth is not None
    assert camera.reconnected_count == 1


def test_the_real_library_says_that_no_camera_is_there():
    rs = pytest.importorskip(
        "pyrealsense2", reason="pyrealsense2 or libusb is not installed", exc_type=ImportError
    )
    if rs.context().query_devices():
        pytest.skip("a RealSense camera is plugged in")
    with pytest.raises(DeviceError, match="RealSense cameras found: none"):
        RealSenseCamera("", 640, 480, 30.0).open()


@pytest.fixture
def folder(tmp_path):
    for i, image in enumerate(IMAGES):
        (tmp_path / f"frame_{i}.png").write_bytes(encode_png(image))
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def read_all(camera):
    camera.open()
    frames = []
    while (frame := camera.read(1.0)) is not None:
        frames.append(frame.rgb)
    camera.close()
    return np.array(frames)


def test_a_folder_plays_in_the_order_of_its_numbers_and_again(folder):
    camera = load_camera(CameraOptions("images", path=str(folder)), PROFILE.camera("primary"))
    np.testing.assert_array_equal(read_all(camera), IMAGES)
    np.testing.assert_array_equal(read_all(camera), IMAGES)
    assert camera.playback_rate_hz == PROFILE.camera("primary").rate_hz


def test_a_damaged_image_and_an_empty_folder_are_named(folder, tmp_path):
    (folder / "frame_0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    camera = ImageFolderCamera(folder, 5.0)
    camera.open()
    with pytest.raises(DeviceError, match=r"frame_0\.png.*damaged"):
        camera.read(1.0)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DeviceError, match=r"contains no \.jpg"):
        ImageFolderCamera(empty, 5.0).open()


def test_an_episode_plays_as_a_camera():
    episode = Episode(
        id="e", instruction="lift", space=PROFILE.space(), rate_hz=5.0,
        stamps_ns=np.arange(12) + 1, images={"primary": ArrayFrames(IMAGES)}, actions=np.zeros((12, 7)),
    )  # fmt: skip
    camera = EpisodeCamera(episode, "primary")
    np.testing.assert_array_equal(read_all(camera), IMAGES)
    assert camera.playback_rate_hz == 5.0
    with pytest.raises(DatasetError, match="no camera 'wrist'; it has primary"):
        EpisodeCamera(episode, "wrist")


def test_playback_stamps_lie_on_a_grid_without_drift():
    playback = Playback(30.0, 1_000)
    stamps = [playback.next_stamp_ns() for _ in range(9001)]
    assert stamps[:2] == [1_000, 33_334_333]
    assert stamps[9000] == 1_000 + 300 * 10**9


def test_a_postponed_playback_keeps_its_period():
    playback = Playback(5.0, 0)
    stamps = [playback.next_stamp_ns()]
    playback.postpone(100_000_000)  # before the next is due: nothing changes
    stamps.append(playback.next_stamp_ns())
    playback.postpone(1_000_000_000)
    stamps += [playback.next_stamp_ns(), playback.next_stamp_ns()]
    assert stamps == [0, 200_000_000, 1_000_000_000, 1_200_000_000]


def test_unknown_sources_and_missing_paths_are_refused():
    profile = PROFILE.camera("primary")
    with pytest.raises(InvalidValueError, match="'webcam' is not one of usb, realsense"):
        load_camera(CameraOptions("webcam"), profile)
    with pytest.raises(InvalidValueError, match="needs a path"):
        load_camera(CameraOptions("video"), profile)


def test_every_source_speaks_the_protocol(folder):
    assert isinstance(ImageFolderCamera(folder, 5.0), Camera)
    assert isinstance(RealSenseCamera("", 6, 4, 30.0, library=FakeRealSense()), Camera)
    assert isinstance(ReconnectingCamera(FakeDevice()), Camera)
    assert isinstance(usb_camera(FakeCapture()), Camera)


CALIBRATION = """
image_width: 640
image_height: 480
camera_name: wrist
camera_matrix: {rows: 3, cols: 3, data: [600.0, 0.0, 320.0, 0.0, 601.0, 240.0, 0.0, 0.0, 1.0]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0.1, -0.2, 0.0, 0.0, 0.0]}
"""


def test_a_calibration_file_is_read_and_its_mistakes_named(tmp_path):
    path = tmp_path / "lens.yaml"
    path.write_text(CALIBRATION)
    lens = read_calibration(path)
    assert (lens.width, lens.height, lens.matrix[1, 1]) == (640, 480, 601.0)
    path.write_text(CALIBRATION.replace("distortion_model: plumb_bob\n", ""))
    with pytest.raises(ProfileError, match=r"lens\.yaml: distortion_model: this key is missing"):
        read_calibration(path)


def test_depth_must_be_aligned():
    with pytest.raises(InvalidValueError, match="not aligned"):
        Frame(IMAGES[0], None, np.zeros((2, 2), np.float32))


@pytest.mark.parametrize(
    ("source", "asked", "opened"),
    [
        (CameraSource("realsense", serial="82"), ("profile", "", ""), ("realsense", "82", "")),
        (CameraSource("realsense", serial="82"), ("realsense", "", ""), ("realsense", "82", "")),
        (CameraSource("realsense", serial="82"), ("usb", "", ""), ("usb", "", "")),
        (CameraSource("usb", device="/dev/video2"), ("profile", "4", ""), ("usb", "4", "")),
        (CameraSource("video", path="film.mp4"), ("profile", "", ""), ("video", "", "film.mp4")),
        (CameraSource("topic"), ("images", "", "folder"), ("images", "", "folder")),
    ],
)
def test_what_a_person_does_not_choose_comes_from_the_profile(source, asked, opened):
    assert chosen_source(replace(load_profile("widowx").cameras[0], source=source), *asked) == opened


def test_a_camera_of_another_driver_is_not_opened_on_its_topic():
    with pytest.raises(InvalidValueError, match="its own driver publishes /camera/camera/color/image_raw"):
        chosen_source(load_profile("widowx").cameras[0], "profile", "", "")
