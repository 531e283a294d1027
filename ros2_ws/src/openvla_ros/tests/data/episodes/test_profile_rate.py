"""A dataset of any format at another rate than the robot's profile."""

from __future__ import annotations

import numpy as np
import pytest
from support.foreign_rlds import LENGTH, images, write_rlds
from support.generated_episodes import make_episode

from openvla_ros.data.bags.bag_export import write_episode
from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.errors import DatasetError
from openvla_ros.profile import load_profile

SPACE = load_profile("widowx").space()  # 5 Hz


def test_rlds_of_another_rate_is_refused_with_both(tmp_path):
    columns = {
        "action/world_vector": np.zeros((LENGTH, 3), np.float32),
        "action/rotation_delta": np.zeros((LENGTH, 3), np.float32),
        "action/gripper_closedness_action": np.zeros((LENGTH, 1), np.float32),
        "observation/natural_language_instruction": ["go"] * LENGTH,
        "observation/front_rgb": images(),
        "is_first": np.arange(LENGTH) == 0,
    }
    folder = write_rlds(tmp_path, "roboturk", [columns])
    refused = SourceRequest(folder, space=SPACE).open()
    with pytest.raises(DatasetError, match=r"recorded at 10 Hz; .* 5 Hz.*--rate 5 composes 2 into one"):
        refused[0]
    assert SourceRequest(folder).open()[0].rate_hz == 10


def test_a_lower_rate_has_no_remedy(tmp_path):
    columns = {
        "action": np.zeros((LENGTH, 7), np.float32),
        "language_instruction": ["go"] * LENGTH,
        "observation/wrist_image": images(),
        "is_first": np.arange(LENGTH) == 0,
    }
    source = SourceRequest(write_rlds(tmp_path, "dobbe", [columns]), space=SPACE).open()
    with pytest.raises(DatasetError, match=r"recorded at 3.75 Hz(?!.*--rate)"):
        source[0]


def test_recordings_of_the_robot_are_read(tmp_path):
    write_episode(tmp_path / "episode_000000", make_episode(0))
    assert len(SourceRequest(tmp_path, space=SPACE).open()[0]) == 6
