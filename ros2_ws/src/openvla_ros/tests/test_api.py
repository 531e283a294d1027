"""The public names: cheap to import, all there, and errors that name the choices."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from support.generated_episodes import make_episode

import openvla_ros
from openvla_ros import api, load_policy, load_profile, open_dataset
from openvla_ros.data.bags.bag_export import write_episode
from openvla_ros.errors import (
    CheckpointError,
    DatasetError,
    InvalidValueError,
    ManifestError,
    PolicyError,
    ProfileError,
)
from openvla_ros.policy.factory import POLICIES, PolicyOptions
from openvla_ros.profile import dump_profile
from openvla_ros.sim.rollout import observe
from openvla_ros.sim.tasks import find_task
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.values.observation import Observation

OBSERVATION = Observation(7, {"primary": np.zeros((4, 4, 3), np.uint8)}, "lift", gripper=0.25)


def test_importing_the_package_imports_nothing_heavy():
    program = "import sys, openvla_ros; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "openvla_ros" in loaded
    assert not loaded & {"torch", "rclpy", "numpy", "mujoco", "cv2", "yaml", "pydantic"}


def test_names_that_need_neither_torch_nor_ros_import_neither():
    names = ", ".join(openvla_ros.__all__)
    program = f"import sys\nfrom openvla_ros import {names}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {name.split(".")[0] for name in done.stdout.split()} & {"torch", "rclpy", "mujoco"}


def test_every_public_name_is_there_and_listed():
    assert sorted(openvla_ros._MODULES) == openvla_ros.__all__
    assert set(openvla_ros.__all__) <= set(dir(openvla_ros))
    for name in openvla_ros.__all__:
        assert getattr(openvla_ros, name).__name__ == name
        assert getattr(openvla_ros, name).__doc__
    with pytest.raises(
        AttributeError, match=r"'load_polizy'; its public names are ActionChunk, .*load_policy"
    ):
        _ = openvla_ros.load_polizy


def test_every_policy_has_its_arguments():
    assert set(api.ARGUMENTS) == set(POLICIES)
    options = {*PolicyOptions.__dataclass_fields__} - {"policy", "checkpoint", "address"}
    assert {name for names in api.ARGUMENTS.values() for name in names} == {*options, "scene"}


def test_a_policy_is_loaded_for_a_robots_name_file_or_profile(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(dump_profile(replace(load_profile("widowx"), name="mine")))
    for robot in ("widowx", path, load_profile("widowx")):
        policy = load_policy("hold", robot=robot)
        assert policy.infer(OBSERVATION).actions.tolist() == [[0, 0, 0, 0, 0, 0, 0.25]]
    assert load_policy("hold").space.rate_hz == load_profile("sim_widowx").space().rate_hz


def test_the_small_model_is_what_is_loaded_without_a_name():
    assert load_policy(decoder="plain", dtype="fp32", device="cpu").description == "small_base"


def test_the_expert_and_a_replay_are_loaded_by_their_names(tmp_path):
    episode = make_episode(0)
    write_episode(tmp_path / "bags" / "e", episode)
    policy = load_policy("replay", robot="widowx", dataset=tmp_path / "bags", episode=0)
    np.testing.assert_array_equal(policy.infer(OBSERVATION).actions, episode.actions[:1])
    with SimulatedRobot(load_profile("sim_widowx"), find_task("lift"), seed=1) as robot:
        expert = load_policy("expert", scene=robot.scene)
        assert len(expert.infer(observe(robot, robot.instruction, images=False))) == 1


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"name": "smal_base"}, CheckpointError, r"no policy 'smal_base'.*\(small_base\).*or 'hold'"),
        ({"name": "hold", "robot": "widowy"}, ProfileError, r"profile 'widowy'; the profiles are .*widowx"),
        ({"name": "hold", "adapter": "runs/a"}, InvalidValueError, "adapter is not .*which takes only robot"),
        ({"name": "small_base", "episode": 2}, InvalidValueError, "episode is not .*takes adapter, "),
        ({"name": "expert"}, InvalidValueError, "policy 'expert' needs scene="),
        ({"name": "replay"}, InvalidValueError, "policy 'replay' needs a dataset"),
        ({"name": "small_base", "decoder": "quick"}, InvalidValueError, "'quick' is not one of fast, steady"),
        ({"name": "ws://127.0.0.1:9"}, PolicyError, "cannot be reached"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_names_the_choices(arguments, kind, words):
    with pytest.raises(kind, match=words):
        load_policy(**arguments)


def faster(name):
    profile = load_profile(name)
    return replace(profile, action_space=replace(profile.action_space, rate_hz=20.0))


def test_a_checkpoint_of_another_robot_is_refused():
    with pytest.raises(ManifestError, match=r"trained on sim_widowx.*\n.*rate_hz"):
        load_policy("small_base", robot=faster("franka"))


def test_a_dataset_is_opened_and_held_against_the_robot(tmp_path):
    for i in range(2):
        write_episode(tmp_path / "bags" / f"e{i}", make_episode(i))
    dataset = open_dataset(tmp_path / "bags", robot="widowx")
    assert (dataset.format, len(dataset)) == ("bag", 2)
    assert dataset[1].instruction == make_episode(1).instruction
    with pytest.raises(DatasetError, match=r"do not match robot franka: .*rate_hz: 20\.0 here, 5\.0 there"):
        open_dataset(tmp_path / "bags", robot=faster("franka"))


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"path": "nowhere"}, DatasetError, "nowhere does not exist"),
        ({"path": "."}, DatasetError, "unknown format; the formats are bag: .*rlds: .*lerobot: .*hdf5: "),
        (
            {"path": "bags", "split": "train"},
            DatasetError,
            "split and convention are for RLDS datasets; this is bag",
        ),
        ({"path": "bags", "robot": "widowy"}, ProfileError, "no robot profile 'widowy'"),
    ],
)
def test_what_cannot_be_opened_names_the_choices(tmp_path, monkeypatch, options, kind, words):
    write_episode(tmp_path / "bags" / "deep" / "e", make_episode(0))
    write_episode(tmp_path / "bags" / "e", make_episode(0))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=words):
        open_dataset(**options)
