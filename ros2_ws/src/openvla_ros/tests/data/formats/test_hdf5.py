"""HDF5 in robomimic's layout, checked with h5py alone."""

import json

import h5py
import numpy as np
import pytest
from support.generated_episodes import assert_same_episode, make_episode

from openvla_ros.data.datasets.open_dataset import SourceRequest, detect_format
from openvla_ros.data.formats.rlds_reader import RldsSource
from openvla_ros.data.hdf5.hdf5_source import Hdf5Source
from openvla_ros.data.hdf5.robomimic_writer import Hdf5Writer
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


def test_files_are_merged_and_renumbered(tmp_path):
    parts = [write(tmp_path / f"{i}.hdf5", [make_episode(2 * i), make_episode(2 * i + 1)]) for i in range(2)]
    with Hdf5Writer(tmp_path / "all.hdf5") as writer:
        for part in parts:
            writer.copy(part)
    source = Hdf5Source(tmp_path / "all.hdf5")
    for index in range(4):
        assert_same_episode(source[index], make_episode(index))


def robosuite_file(path, controller="OSC_POSE"):
    environment = {
        "env_name": "Lift",
        "env_kwargs": {
            "control_freq": 20,
            "controller_configs": {"type": controller, "output_max": [0.05] * 3 + [0.5] * 3},
        },
    }
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(environment)
        demo = data.create_group("demo_0")
        demo["actions"] = np.array([[0.1] * 6 + [-1.0], [0.2] * 6 + [1.0]])
        demo["rewards"] = np.array([0.0, 1.0])
        demo["obs/agentview_image"] = np.full((2, 8, 8, 3), 7, np.uint8)
        demo["obs/robot0_eef_pos"] = np.ones((2, 3))
        demo["obs/robot0_eef_quat"] = np.tile([0.0, 0, 0, 1], (2, 1))
        demo["obs/robot0_joint_pos"] = np.zeros((2, 7))
    return path


def test_a_robosuite_file_imports_with_its_gripper_sign(tmp_path):
    episode = Hdf5Source(robosuite_file(tmp_path / "low.hdf5"))[0]
    assert episode.actions[:, 6].tolist() == [1.0, 0.0]
    assert (episode.space.units[0], episode.space.rotation, episode.outcome) == (
        "0.05 m", "rotation_vector", "success",
    )  # fmt: skip
    assert episode.observation(1).images["agentview"][0, 0, 0] == 7


def test_unknown_actions_are_refused(tmp_path):
    source = Hdf5Source(robosuite_file(tmp_path / "low.hdf5", "JOINT_VELOCITY"))
    with pytest.raises(DatasetError, match="controller 'JOINT_VELOCITY'; supported are OSC_POSE"):
        source[0]


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
