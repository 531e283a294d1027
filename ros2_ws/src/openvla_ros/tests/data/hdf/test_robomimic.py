"""HDF5 in robomimic's layout, written and read; checked with h5py alone."""

import json

import h5py
import numpy as np
import pytest
from support.generated_episodes import assert_same_episode, make_episode

from openvla_ros.data.datasets.open_dataset import SourceRequest, detect_format
from openvla_ros.data.formats.rlds_reader import RldsSource
from openvla_ros.data.hdf.hdf5_source import Hdf5Source
from openvla_ros.data.hdf.robomimic_writer import Hdf5Writer
from openvla_ros.errors import DatasetError


def write(path, episodes):
    with Hdf5Writer(path) as writer:
        for episode in episodes:
            writer.add(episode)
    return path


@pytest.mark.parametrize("jpeg", [False, True])
def test_export_and_import_give_the_same_numbers(tmp_path, jpeg):
    episodes = [make_episode(i, 3 + i, jpeg=jpeg) for i in range(12)]
    source = Hdf5Source(write(tmp_path / "demo.hdf5", episodes))
    assert len(source) == 12
    for index, episode in enumerate(episodes):
        assert_same_episode(source[index], episode)


def test_the_file_has_robomimics_layout(tmp_path):
    episodes = [make_episode(0, 4), make_episode(1, 6)]
    with h5py.File(write(tmp_path / "demo.hdf5", episodes)) as file:
        assert json.loads(file["data"].attrs["env_args"])["env_name"]
        assert file["data"].attrs["total"] == 10
        demo = file["data/demo_1"]
        assert demo.attrs["num_samples"] == 6
        assert demo["actions"].shape == (6, 7)
        assert demo["obs/wrist_image"].shape == (6, 32, 32, 3)
        assert demo["obs/wrist_image"].dtype == np.uint8
        assert demo["dones"][:].tolist() == [0] * 5 + [1]
        np.testing.assert_allclose(np.linalg.norm(demo["obs/robot0_eef_quat"], axis=1), 1)


def test_next_observations_are_those_of_the_next_step(tmp_path):
    """robomimic 0.3, utils/dataset.py: ``hdf5_load_next_obs`` reads every observation from next_obs too."""
    with h5py.File(write(tmp_path / "demo.hdf5", [make_episode(0, 4)])) as file:
        demo = file["data/demo_0"]
        assert set(demo["next_obs"]) == set(demo["obs"])
        for name, now in demo["obs"].items():
            later = demo[f"next_obs/{name}"][:]
            np.testing.assert_array_equal(later[:-1], now[1:])
            np.testing.assert_array_equal(later[-1], now[-1])
        assert demo["states"].shape == (4, 6 + 3 + 4 + 1)


def test_next_observations_can_be_left_out(tmp_path):
    with Hdf5Writer(tmp_path / "demo.hdf5", next_obs=False) as writer:
        writer.add(make_episode(0, 4))
    with h5py.File(tmp_path / "demo.hdf5") as file:
        assert "next_obs" not in file["data/demo_0"]


def test_masks_split_the_demonstrations_by_name(tmp_path):
    """robomimic 0.3 asks for mask/train and mask/valid where it validates."""
    episodes = [make_episode(i, 2, size=10) for i in range(30)]

    def names(chosen):
        with h5py.File(write(tmp_path / "demo.hdf5", chosen)) as file:
            masks = {name: [m.decode() for m in file[f"mask/{name}"][:]] for name in file["mask"]}
            ids = {name: json.loads(demo.attrs["openvla_ros"])["id"] for name, demo in file["data"].items()}
        return {mask: {ids[demo] for demo in demos} for mask, demos in masks.items()}

    all_of_them = names(episodes)
    assert all_of_them["train"].isdisjoint(all_of_them["valid"])
    assert len(all_of_them["train"] | all_of_them["valid"]) == 30
    assert 1 <= len(all_of_them["valid"]) <= 8
    kept = names(episodes[10:])
    assert kept["valid"] == all_of_them["valid"] - {episode.id for episode in episodes[:10]}
    assert set(names(episodes[:1])) == {"train"}
    assert {mask: len(ids) for mask, ids in names(episodes[:2]).items()} == {"train": 1, "valid": 1}


def test_files_are_merged_and_renumbered(tmp_path):
    parts = [write(tmp_path / f"{i}.hdf5", [make_episode(2 * i), make_episode(2 * i + 1)]) for i in range(2)]
    with Hdf5Writer(tmp_path / "all.hdf5") as writer:
        for part in parts:
            writer.copy(part)
    source = Hdf5Source(tmp_path / "all.hdf5")
    for index in range(4):
        assert_same_episode(source[index], make_episode(index))


def test_bridge_round_trip(bridge_folder, tmp_path):
    episodes = [*RldsSource(bridge_folder)]
    source = Hdf5Source(write(tmp_path / "bridge.hdf5", episodes))
    assert len(source) == 25
    for index, episode in enumerate(episodes):
        assert_same_episode(source[index], episode)


def test_formats_are_detected(tmp_path, request):
    path = write(tmp_path / "a.hdf5", [make_episode(0)])
    assert detect_format(path) == "hdf5"
    assert len(SourceRequest(path).open()) == 1
    with pytest.raises(DatasetError, match="split and convention are for RLDS"):
        SourceRequest(path, split="train").open()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"unknown format; the formats are bag: .*rlds: .*lerobot: .*hdf5"):
        detect_format(tmp_path / "empty")
    with pytest.raises(DatasetError, match="does not exist"):
        detect_format(tmp_path / "nowhere")


def test_a_damaged_file_is_a_dataset_error(tmp_path):
    path = write(tmp_path / "a.hdf5", [make_episode(0)])
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DatasetError, match=r"a\.hdf5: cannot be read: OSError"):
        Hdf5Source(path)
