"""Datasets of every format keep actions of every kind, and ``openvla convert --action-space`` makes them."""

from dataclasses import replace

import numpy as np
import pytest
from support.action_spaces import SPACES
from support.generated_episodes import make_episode
from support.openvla_program import run

from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.data.episodes.converted_actions import ActionConversion, ActionConverter
from openvla_ros.data.hdf.robomimic_writer import Hdf5Writer
from openvla_ros.errors import OpenVLARosError
from openvla_ros.profile import load_profile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.values.episode import Episode

PROFILE = load_profile("widowx")
CHAIN = KinematicChain.from_profile(PROFILE.arm)


def reachable_episode(seed: int) -> Episode:
    """Deltas that keep the tool near the neutral pose, and joints that agree with the poses."""
    rng = np.random.default_rng(seed)
    q = np.array(PROFILE.arm.neutral) + np.cumsum(rng.normal(0, 0.01, (6, 6)), axis=0)
    actions = np.column_stack([rng.uniform(-0.01, 0.01, (6, 6)), rng.integers(0, 2, 6)])
    poses = np.array([CHAIN.forward(joints).matrix for joints in q])
    return make_episode(seed, 6, actions=actions, joint_positions=q, poses=poses)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.hdf5"
    with Hdf5Writer(path) as writer:
        for seed in range(2):
            writer.add(reachable_episode(seed))
    return path


@pytest.mark.parametrize("target", ["bag", "rlds", "lerobot", "hdf5"])
@pytest.mark.parametrize(("kind", "rotation"), [("joint_position", "none"), ("tool_pose", "rotation_6d")])
def test_every_format_keeps_actions_of_another_kind(source, tmp_path, target, kind, rotation):
    options = () if rotation == "none" else ("--rotation", rotation)
    done = run(
        "convert", source, tmp_path / "out", "--to", target, "--images", "image", "--robot", "widowx",
        "--action-space", kind, *options,
    )  # fmt: skip
    assert "2 episodes, 12 steps" in done.output
    folder = tmp_path / "out" / "out.hdf5" if target == "hdf5" else tmp_path / "out"
    written = SourceRequest(folder).open()
    converter = ActionConverter(PROFILE)
    for index in range(2):
        episode, was = written[index], reachable_episode(index)
        assert (episode.space.kind, episode.space.rotation) == (kind, rotation)
        space = converter.space(ActionConversion(PROFILE, kind, rotation), was.space)
        np.testing.assert_array_equal(episode.actions, converter.convert(was, space).actions)
        assert episode.provenance["converted_from"] == "tool_delta euler_xyz"


def test_a_converted_dataset_is_converted_back(source, tmp_path):
    run("convert", source, tmp_path / "joints", "--to", "bag", "--robot", "widowx",
        "--action-space", "joint_delta")  # fmt: skip
    run("convert", tmp_path / "joints", tmp_path / "back", "--to", "rlds", "--robot", "widowx",
        "--action-space", "tool_delta")  # fmt: skip
    back = SourceRequest(tmp_path / "back").open()[0]
    was = reachable_episode(0)
    assert was.space.differences(back.space) == []
    np.testing.assert_allclose(back.actions, was.actions, atol=1e-5)


def test_an_episode_that_cannot_be_converted_is_left_out_and_says_why(tmp_path):
    path = tmp_path / "source.hdf5"
    far = reachable_episode(1)
    actions = far.actions.copy()
    actions[2, 0] = 2.0
    with Hdf5Writer(path) as writer:
        writer.add(reachable_episode(0))
        writer.add(replace(far, actions=actions))
    done = run("convert", path, tmp_path / "out", "--to", "bag", "--robot", "widowx",
               "--action-space", "joint_position", code=2)  # fmt: skip
    assert "skipped: episode 1: episode 'episode_0001': step 2: tool pose at" in done.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--action-space", "joint_delta"), "--action-space joint_delta needs --robot"),
        (("--rotation", "matrix"), "--rotation matrix needs --action-space"),
        (
            ("--action-space", "tool_delta", "--rotation", "matrix", "--robot", "widowx"),
            "rotation 'matrix' does not fit tool_delta actions; choose from euler_xyz, rotation_vector",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(source, tmp_path, options, words):
    with pytest.raises(OpenVLARosError, match=words):
        run("convert", source, tmp_path / "out", "--to", "bag", *options)


@pytest.mark.parametrize(("kind", "rotation"), SPACES)
def test_no_dimension_of_one_space_is_taken_for_one_of_another(kind, rotation):
    converter = ActionConverter(PROFILE)
    space = converter.space(ActionConversion(PROFILE, kind, rotation), PROFILE.space())
    for other_kind, other_rotation in SPACES:
        other = converter.space(ActionConversion(PROFILE, other_kind, other_rotation), PROFILE.space())
        if other.kind != kind:
            assert not set(space.names[:-1]) & set(other.names[:-1])
        elif other.rotation != rotation and kind == "tool_pose":
            assert space.names != other.names
