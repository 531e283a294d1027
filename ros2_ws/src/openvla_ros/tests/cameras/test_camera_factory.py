"""Which source is opened: what a person chooses, otherwise what the profile names."""

from dataclasses import replace

import pytest

from openvla_ros.cameras.factory import CameraOptions, chosen_source, load_camera
from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import CameraSource, load_profile

PROFILE = load_profile("sim_widowx")


def test_unknown_sources_and_missing_paths_are_refused():
    profile = PROFILE.camera("primary")
    with pytest.raises(InvalidValueError, match="'webcam' is not one of usb, realsense"):
        load_camera(CameraOptions("webcam"), profile)
    with pytest.raises(InvalidValueError, match="needs a path"):
        load_camera(CameraOptions("video"), profile)


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
