"""What every source of images is, and what a frame must be."""

import numpy as np
import pytest
from support.fake_camera_devices import FakeCapture, FakeDevice, FakeRealSense, usb_camera

from openvla_ros.cameras.playback_sources import ImageFolderCamera
from openvla_ros.cameras.protocol import Camera, Frame
from openvla_ros.cameras.realsense import RealSenseCamera
from openvla_ros.cameras.reconnecting import ReconnectingCamera
from openvla_ros.errors import InvalidValueError


def test_every_source_speaks_the_protocol(tmp_path):
    assert isinstance(ImageFolderCamera(tmp_path, 5.0), Camera)
    assert isinstance(RealSenseCamera("", 6, 4, 30.0, library=FakeRealSense()), Camera)
    assert isinstance(ReconnectingCamera(FakeDevice()), Camera)
    assert isinstance(usb_camera(FakeCapture()), Camera)


def test_depth_must_be_aligned():
    with pytest.raises(InvalidValueError, match="not aligned"):
        Frame(np.zeros((8, 10, 3), np.uint8), None, np.zeros((2, 2), np.float32))
