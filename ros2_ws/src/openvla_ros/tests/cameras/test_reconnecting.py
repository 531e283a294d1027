"""A camera that is unplugged comes back by itself; one that was never there is an error."""

import numpy as np
import pytest
from support.fake_camera_devices import FakeDevice

from openvla_ros.cameras.reconnecting import ReconnectingCamera
from openvla_ros.errors import DeviceError


class FakeClock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


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
