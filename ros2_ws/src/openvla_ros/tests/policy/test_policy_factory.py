"""The policy for a name, and its refusals; a checkpoint's manifest is checked against the robot."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from support.action_spaces import NEW_SPACES, Speaker, in_space
from support.golden_checkpoints import COMMITTED

from openvla_ros.data.episodes.encoded_images import ArrayFrames
from openvla_ros.errors import InvalidValueError, ManifestError, OpenVLARosError, PolicyError
from openvla_ros.manifest import Manifest, write_manifest
from openvla_ros.model.inference.checkpoint_files import read_transform
from openvla_ros.policy import factory
from openvla_ros.policy.factory import PolicyOptions, load_policy
from openvla_ros.policy.hold import HoldPolicy
from openvla_ros.policy.protocol import Policy
from openvla_ros.policy.replay_policy import ReplayPolicy
from openvla_ros.preprocessing.dataset_statistics import read_statistics
from openvla_ros.profile import load_profile
from openvla_ros.robot.episode_player import EpisodePlayer
from openvla_ros.teleop.teleoperator import Teleoperator
from openvla_ros.values.episode import Episode
from openvla_ros.values.observation import Observation

PROFILE = load_profile("sim_widowx")
SPACE = PROFILE.space()
OBSERVATION = Observation(7, {"primary": np.zeros((4, 4, 3), np.uint8)}, "lift", gripper=0.25)


def no_scene():
    raise AssertionError("nobody asked for the scene")


def episode(space=SPACE):
    return Episode(
        id="e", instruction="lift", space=space, rate_hz=5.0, stamps_ns=np.arange(3) + 1,
        images={"primary": ArrayFrames(np.zeros((3, 4, 4, 3), np.uint8))},
        actions=np.arange(21.0).reshape(3, 7),
    )  # fmt: skip


@pytest.mark.parametrize("policy", [HoldPolicy(SPACE), ReplayPolicy(episode(), SPACE)])
def test_policies_speak_the_protocol(policy):
    assert isinstance(policy, Policy)
    policy.reset()
    chunk = policy.infer(OBSERVATION)
    assert (chunk.observation_stamp_ns, chunk.space) == (7, SPACE)
    policy.close()
    policy.close()


def test_hold_moves_nothing_and_leaves_the_gripper():
    np.testing.assert_array_equal(HoldPolicy(SPACE).infer(OBSERVATION).actions, [[0, 0, 0, 0, 0, 0, 0.25]])
    droid = replace(SPACE, gripper_open=0.0)
    np.testing.assert_array_equal(HoldPolicy(droid).infer(OBSERVATION).actions, [[0, 0, 0, 0, 0, 0, 0.75]])


def test_replay_plays_each_action_once_and_again_after_a_reset():
    policy = ReplayPolicy(episode(), SPACE)
    for _ in range(2):
        policy.reset()
        played = [policy.infer(OBSERVATION).actions[0] for _ in range(3)]
        np.testing.assert_array_equal(played, np.arange(21.0).reshape(3, 7))
        with pytest.raises(PolicyError, match="played to its end"):
            policy.infer(OBSERVATION)


def test_replay_refuses_an_episode_of_another_robot():
    with pytest.raises(InvalidValueError, match=r"not recorded for this robot.*'tool'"):
        ReplayPolicy(episode(replace(SPACE, frame="tool")), SPACE)


def test_unknown_names_and_missing_paths_are_refused():
    with pytest.raises(InvalidValueError, match="'wish' is not one of openvla"):
        load_policy(PolicyOptions("wish"), PROFILE, no_scene)
    with pytest.raises(InvalidValueError, match="needs a checkpoint"):
        load_policy(PolicyOptions("openvla"), PROFILE, no_scene)
    with pytest.raises(InvalidValueError, match="needs a dataset"):
        load_policy(PolicyOptions("replay"), PROFILE, no_scene)


def test_what_can_be_chosen_is_what_the_model_knows():
    from openvla_ros.model.inference import options
    from openvla_ros.model.network import bitsandbytes_layers

    assert factory.DECODERS == options.DECODERS
    assert ("none", *bitsandbytes_layers.QUANTIZATIONS) == factory.QUANTIZATIONS
    checkpoint = str(COMMITTED / "checkpoint")
    for values, message in (
        ({"decoder": "quick"}, "'quick' is not one of fast, steady, plain"),
        ({"quantization": "int3"}, "'int3' is not one of int8, nf4, int8wo, int4wo, fp8"),
        ({"quantization": "fp8"}, "fp8 needs a CUDA device"),
        ({"quantization": "int8wo", "decoder": "plain"}, "decoder 'plain' has no int8wo weights"),
    ):
        options = PolicyOptions("openvla", checkpoint, "bridge_orig", device="cpu", offline=True, **values)
        with pytest.raises(OpenVLARosError, match=message):
            load_policy(options, PROFILE, no_scene)


def test_a_policy_of_another_space_is_refused(monkeypatch):
    other = HoldPolicy(replace(SPACE, rate_hz=15.0))
    monkeypatch.setattr(factory, "HoldPolicy", lambda space: other)
    with pytest.raises(
        PolicyError, match=r"does not match robot sim_widowx.*rate_hz: 5\.0 here, 15\.0 there"
    ):
        load_policy(PolicyOptions("hold"), PROFILE, no_scene)


def test_a_manifest_of_another_robot_refuses_to_run_and_names_the_line(tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(COMMITTED / "checkpoint", folder)
    manifest = Manifest(
        base_model="openvla/openvla-7b", base_revision=None, adapter_sha256=None, dataset_key="bridge_orig",
        statistics=read_statistics(folder / "dataset_statistics.json")["bridge_orig"],
        action_space=replace(SPACE, rate_hz=15.0), prompt_style="openvla",
        image_transform=read_transform(folder), center_crop=True, cameras=("primary",), robot="droid",
    )  # fmt: skip
    write_manifest(folder, manifest)
    options = PolicyOptions("openvla", str(folder), device="cpu", offline=True)
    with pytest.raises(ManifestError, match=r"trained on droid.*sim_widowx:\n.*rate_hz.*15\.0.*5\.0"):
        load_policy(options, PROFILE, no_scene)
    write_manifest(folder, replace(manifest, action_space=SPACE))
    with pytest.raises(ManifestError, match="unnorm_key is 'bridge_orig', not 'other' as requested"):
        load_policy(replace(options, unnorm_key="other"), PROFILE, no_scene)
    assert isinstance(load_policy(options, PROFILE, no_scene), Policy)


@pytest.mark.parametrize(("kind", "rotation"), NEW_SPACES)
def test_hold_holds_in_every_space_where_the_arm_was_first(kind, rotation):
    profile = in_space(PROFILE, kind, rotation)
    speaker, first = Speaker(profile), np.array(PROFILE.arm.neutral)
    policy = HoldPolicy(profile.space())
    for q in (first, first + 0.01):
        seen = replace(OBSERVATION, joint_positions=q, pose=speaker.chain.forward(q))
        np.testing.assert_allclose(policy.infer(seen).actions[0], speaker.action(first, first, 0.25))
    policy.reset()
    if profile.space().is_absolute:
        with pytest.raises(PolicyError, match=r"needs (them|it) in the observation"):
            policy.infer(replace(OBSERVATION, joint_positions=None, pose=None))


def test_the_expert_and_teleoperation_need_deltas():
    profile = in_space(PROFILE, "joint_position", "none")
    with pytest.raises(
        InvalidValueError, match="the scripted expert needs tool_delta actions; these are joint"
    ):
        load_policy(PolicyOptions("expert"), profile, no_scene)
    with pytest.raises(InvalidValueError, match="teleoperation needs tool_delta actions"):
        Teleoperator(profile.space())
    with pytest.raises(InvalidValueError, match="playing an episode needs tool_delta actions"):
        EpisodePlayer(np.zeros((3, 7)), profile)
