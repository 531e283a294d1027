"""Recordings as cameras: folders of images, episodes, and the stamps of what is played."""

import numpy as np
import pytest

from openvla_ros.cameras.factory import CameraOptions, load_camera
from openvla_ros.cameras.playback import Playback
from openvla_ros.cameras.playback_sources import EpisodeCamera, ImageFolderCamera
from openvla_ros.data.episodes.encoded_images import ArrayFrames
from openvla_ros.errors import DatasetError, DeviceError
from openvla_ros.preprocessing.image_encoding import encode_png
from openvla_ros.profile import load_profile
from openvla_ros.values.episode import Episode

PROFILE = load_profile("sim_widowx")
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 10, 3), np.uint8)


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
