"""USB cameras against a fake capture: colour order, stamps, and what goes wrong."""

import cv2
import pytest
from support.fake_camera_devices import FakeCapture, usb_camera

from openvla_ros.cameras import usb
from openvla_ros.cameras.reconnecting import ReconnectingCamera
from openvla_ros.errors import DeviceError


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
