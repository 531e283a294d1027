"""Fake camera devices: one with a plug, one behind OpenCV's interface, one behind pyrealsense2's."""

import time
from types import SimpleNamespace

import cv2
import numpy as np

from openvla_ros.cameras.protocol import Frame
from openvla_ros.cameras.usb import UsbCamera
from openvla_ros.errors import DeviceError

IMAGE = np.zeros((8, 10, 3), np.uint8)


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
        return Frame(IMAGE, 7)

    def close(self):
        self.is_open, self.closed = False, self.closed + 1


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
            return time.monotonic_ns() / 1e6 - self.age_ms
        return {cv2.CAP_PROP_FRAME_WIDTH: self.size[0], cv2.CAP_PROP_FRAME_HEIGHT: self.size[1]}[key]

    def read(self):
        if not self.gives:
            return False, None
        return True, np.full((480, 640, 3), (1, 2, 3), np.uint8)

    def release(self):
        self.released = True


def usb_camera(capture, ready=True, **options):
    return UsbCamera(
        "/dev/video7", 640, 480, 30.0, open_capture=lambda device: capture, wait=lambda c, t: ready, **options
    )


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
