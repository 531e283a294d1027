"""RealSense cameras against a fake library: colour, depth, stamps and lens, and being unplugged."""

import time

import numpy as np
import pytest
from support.fake_camera_devices import FakeRealSense

from openvla_ros.cameras.realsense import RealSenseCamera
from openvla_ros.cameras.reconnecting import ReconnectingCamera
from openvla_ros.errors import DeviceError


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
    assert abs(camera.read(1.0).stamp_ns - time.time_ns()) < 1_000_000_000


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
