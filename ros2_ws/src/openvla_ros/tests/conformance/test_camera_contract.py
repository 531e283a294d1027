"""Every camera of ours keeps the contract, and what breaks it in one way is told in the right words."""

import time

import cv2
import numpy as np
import pytest
from support.fake_camera_devices import FakeCapture

from openvla_ros.cameras.playback_sources import EpisodeCamera, ImageFolderCamera
from openvla_ros.cameras.protocol import Frame, Intrinsics
from openvla_ros.cameras.reconnecting import ReconnectingCamera
from openvla_ros.cameras.usb import UsbCamera
from openvla_ros.cameras.video_file import VideoFileCamera
from openvla_ros.conformance import check_camera
from openvla_ros.data.episodes.encoded_images import ArrayFrames
from openvla_ros.errors import ConformanceError, DeviceError, InvalidValueError
from openvla_ros.preprocessing.image_encoding import encode_png
from openvla_ros.profile import load_profile
from openvla_ros.values.episode import Episode

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 10, 3), np.uint8)


def test_a_folder_of_images_keeps_the_contract(tmp_path):
    for i, image in enumerate(IMAGES):
        (tmp_path / f"frame_{i}.png").write_bytes(encode_png(image))
    check_camera(ImageFolderCamera(tmp_path, 5.0), images=10)


def test_a_video_keeps_the_contract(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write MJPG")
    for level in range(0, 250, 50):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    check_camera(VideoFileCamera(path))


def test_an_episode_keeps_the_contract():
    episode = Episode(
        id="e", instruction="lift", space=load_profile("sim_widowx").space(), rate_hz=5.0,
        stamps_ns=np.arange(4) + 1, images={"primary": ArrayFrames(IMAGES)}, actions=np.zeros((4, 7)),
    )  # fmt: skip
    check_camera(EpisodeCamera(episode, "primary"))


@pytest.mark.parametrize("wrap", [lambda camera: camera, ReconnectingCamera])
def test_a_usb_camera_keeps_the_contract_alone_and_reconnecting(wrap):
    usb = UsbCamera("0", 640, 480, 30.0, open_capture=lambda device: FakeCapture(), wait=lambda c, t: True)
    check_camera(wrap(usb))


class Good:
    """A stranger's device."""

    description = "good camera"
    playback_rate_hz = None
    intrinsics = None

    def open(self):
        self.image = np.zeros((4, 6, 3), np.uint8)
        self.count = 0

    def read(self, timeout_s):
        self.count += 1
        return Frame(self.image + self.count, time.time_ns())

    def close(self):
        pass


class GoodRecording(Good):
    playback_rate_hz = 5.0

    def read(self, timeout_s):
        self.count += 1
        return Frame(self.image + self.count, None) if self.count < 3 else None


def test_a_strangers_device_and_recording_keep_the_contract():
    check_camera(Good())
    check_camera(GoodRecording())


class SameBuffer(Good):
    def read(self, timeout_s):
        self.image += 1
        return Frame(self.image, time.time_ns())


class Growing(Good):
    def read(self, timeout_s):
        self.count += 1
        return Frame(np.zeros((4 + self.count, 6, 3), np.uint8), time.time_ns())


class OpensOnce(Good):
    was_open = False

    def open(self):
        if self.was_open:
            raise DeviceError("busy: the device was not given back")
        self.was_open = True
        super().open()


class ClosesOnce(Good):
    def close(self):
        del self.image


class GoesOn(GoodRecording):
    """Does not go back to the beginning."""

    at = 0

    def read(self, timeout_s):
        self.at += 1
        return Frame(np.full((4, 6, 3), self.at, np.uint8), None)


def device(**members):
    return type("Device", (Good,), members)()


def recording(**members):
    return type("Recording", (GoodRecording,), members)()


def raising(error):
    def call(self, *_):
        raise error

    return call


class SameStamp(Good):
    def open(self):
        super().open()
        self.stamp_ns = time.time_ns()

    def read(self, timeout_s):
        return Frame(self.image, self.stamp_ns)


class Lacking:
    description, playback_rate_hz, intrinsics = "no open", None, None
    read = close = Good.close


LENS = Intrinsics(640, 480, np.eye(3), "plumb_bob", np.zeros(5))
BROKEN = {
    "no open": (Lacking(), r"Lacking\.open: .*there is the method 'open'; got: no 'open'"),
    "no description": (device(description=None), r"description: .*one line of readable text.*got: None"),
    "rate of 0": (recording(playback_rate_hz=0.0), r"playback_rate_hz: .*rate in Hz.*got: 0\.0"),
    "OSError on open": (device(open=raising(OSError("x"))), r"open: .*nothing but DeviceError; got: OSError"),
    "can be reopened": (device(open=raising(DeviceError("busy"))), r"open: .*a device that is .*got: busy"),
    "no image": (device(read=raising(DeviceError("none came"))), r"read: .*within 0\.2 s; got: none came"),
    "AttributeError on read": (device(read=raising(AttributeError("x"))), r"read: .*nothing but .*got: Attr"),
    "waits for ever": (
        device(read=lambda s, t: time.sleep(0.8) or Frame(s.image, time.time_ns())),
        r"read: .*raises DeviceError if there is no image within timeout_s; got: it took 0\.\d+ s",
    ),
    "bare array": (device(read=lambda s, t: s.image), r"read: .*returns a Frame or None; got: a ndarray"),
    "None from a device": (device(read=lambda s, t: None), r"read: .*None only at the end of a recording"),
    "empty recording": (recording(read=lambda s, t: None), r"read: .*got: None at the first call"),
    "monotonic clock": (
        device(read=lambda s, t: Frame(s.image, time.monotonic_ns())),
        r"read: .*nanoseconds since the epoch; got: a stamp \d+\.\d+ s before now",
    ),
    "device without stamp": (device(read=lambda s, t: Frame(s.image, None)), r"read: .*got: stamp_ns=None"),
    "recording with stamp": (
        recording(read=lambda s, t: Frame(s.image, 5)), r"read: .*images have no stamp; got: stamp_ns=5",
    ),
    "the same stamp": (
        SameStamp(),
        r"read: .*stamp is later than the one before",
    ),
    "buffer used again": (
        SameBuffer(), r"SameBuffer\.read: .*never changes after it was returned; got: the next read",
    ),
    "sizes differ": (Growing(), r"read: .*the same size; got: \(6, 6, 3\) after \(5, 6, 3\)"),
    "lens of another size": (device(intrinsics=LENS), r"intrinsics: .*intrinsics for 640x480, images of 6x4"),
    "lens as a matrix": (device(intrinsics=np.eye(3)), r"intrinsics: .*or None; got: a ndarray"),
    "close twice": (ClosesOnce(), r"close: .*safe to call twice; got: the second call raised AttributeError"),
    "opens once": (OpensOnce(), r"open: .*a device that is plugged in; got: busy: the device was not"),
    "goes on": (GoesOn(), r"open: .*goes to the beginning of a recording"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_what_a_camera_does_wrong_is_told(fault):
    camera, words = BROKEN[fault]
    with pytest.raises(ConformanceError, match=words) as caught:
        check_camera(camera, timeout_s=0.2)
    assert "(see openvla_ros.cameras.protocol.Camera." in str(caught.value)


def test_one_image_is_not_enough_to_compare():
    with pytest.raises(InvalidValueError, match="images is 1; at least 2"):
        check_camera(Good(), images=1)
