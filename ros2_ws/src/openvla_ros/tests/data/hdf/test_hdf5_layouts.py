"""Which layouts are recognised, DROID's files, and what is refused by name."""

import h5py
import numpy as np
import pytest
from support.foreign_hdf5 import write_aloha, write_droid, write_robomimic

from openvla_ros.data.datasets.open_dataset import SourceRequest, detect_format
from openvla_ros.errors import DatasetError


def test_a_droid_episode_in_metres_and_radians(tmp_path):
    """droid/robot_ik/robot_ik_solver.py: full velocity is 0.075 m and 0.15 rad; 0 opens the gripper."""
    folder = write_droid(tmp_path / "Fri_Jul__7_09:42:23_2023")
    episode = SourceRequest(folder).open()[0]
    assert (episode.id, episode.instruction, episode.outcome) == (folder.name, "move the cup", "success")
    assert len(episode) == 4  # the first step was skipped
    assert episode.provenance["steps_left_out"] == "1"
    np.testing.assert_allclose(episode.actions[0], [0.0375, 0, 0, 0, 0, 0.15, 0.75])
    np.testing.assert_allclose(episode.poses[:, 0, 3], [0.325, 0.35, 0.375, 0.4])
    assert episode.gripper.tolist() == [0.75] * 4
    assert np.diff(episode.stamps_ns).tolist() == [66_000_000] * 3
    assert episode.rate_hz == 15.0
    assert list(episode.images) == ["wrist", "exterior_1"]
    assert abs(int(episode.images["wrist"][2].mean()) - 120) < 12


def test_a_folder_of_droid_episodes(tmp_path):
    for day in ("a", "b"):
        write_droid(tmp_path / "success" / "2023-07-07" / day, videos=False)
    assert detect_format(tmp_path) == "hdf5"
    assert [episode.id for episode in map(SourceRequest(tmp_path).open().__getitem__, range(2))] == ["a", "b"]


def test_videos_that_do_not_fit_the_steps_are_left_out(tmp_path, caplog):
    folder = write_droid(tmp_path / "episode")
    with h5py.File(folder / "trajectory.h5", "r+") as file:
        for name in list(_datasets(file)):
            values = file[name][:4]
            del file[name]
            file[name] = values
    episode = SourceRequest(folder).open()[0]
    assert dict(episode.images) == {}
    assert "111.mp4 (5 images for 4 steps" in caplog.text


def _datasets(file):
    names = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names


def test_alohas_joint_targets_are_refused_by_name(tmp_path):
    for index in range(2):
        write_aloha(tmp_path / f"episode_{index}.hdf5")
    for path in (tmp_path, tmp_path / "episode_1.hdf5"):
        with pytest.raises(DatasetError, match=r"ALOHA's layout.*absolute joint targets.*not supported"):
            SourceRequest(path).open()


def test_several_files_ask_for_a_choice(tmp_path):
    for name in ("a", "b"):
        write_robomimic(tmp_path / f"{name}.hdf5")
    with pytest.raises(DatasetError, match=r"several datasets; choose one: a\.hdf5, b\.hdf5"):
        SourceRequest(tmp_path).open()


def test_anything_else_is_refused_with_what_it_contains(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["observations"], file["actions"] = np.zeros(3), np.zeros(3)
    with pytest.raises(DatasetError, match=r"unknown layout; it contains actions, observations\. Supp"):
        SourceRequest(tmp_path / "a.hdf5").open()
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["action/joint_position"] = np.zeros((3, 7))
    with pytest.raises(DatasetError, match="action/joint_position; of DROID's layout, action/cartesian_v"):
        SourceRequest(tmp_path / "b.h5").open()
