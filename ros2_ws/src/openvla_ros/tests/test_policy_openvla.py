"""The policy: an observation in, a chunk in the robot's action space out."""

import dataclasses

import numpy as np
import pytest
import torch
from model_reference import cases
from PIL import Image

from openvla_ros.errors import PolicyError, StatisticsError
from openvla_ros.images import to_rgb
from openvla_ros.model.predictor import load_predictor
from openvla_ros.observation import Observation
from openvla_ros.policy.openvla import OpenVLAPolicy
from openvla_ros.policy.protocol import Policy
from openvla_ros.profile import load_profile

CASE = next(case for case in cases() if case.prompt == "normal")


@pytest.fixture(scope="module")
def predictor():
    return load_predictor(
        CASE.checkpoint, unnorm_key=CASE.unnorm_key, center_crop=CASE.center_crop, dtype=torch.float32
    )


@pytest.fixture
def policy(predictor):
    return OpenVLAPolicy(predictor, load_profile("widowx").space(), cameras=["primary"], description="test")


def observation(**changes):
    image = to_rgb(Image.open(CASE.folder / "images" / CASE.image))
    values = {"stamp_ns": 42, "images": {"primary": image}, "instruction": CASE.instruction}
    return Observation(**(values | changes))


def test_the_golden_action_comes_out_of_an_observation(policy):
    assert isinstance(policy, Policy)
    chunk = policy.infer(observation())
    numbers = CASE.numbers()
    np.testing.assert_allclose(chunk.actions, numbers["actions"][None], rtol=0, atol=1e-12)
    assert chunk.observation_stamp_ns == 42
    assert chunk.space is policy.space
    assert chunk.probability.shape == chunk.entropy.shape == (1, 7)
    assert np.all((chunk.probability >= 0) & (chunk.probability <= 1))


def test_it_looks_at_the_camera_it_was_given(predictor, policy):
    images = dict(observation().images) | {"wrist": np.zeros((8, 8, 3), np.uint8)}
    chunk = policy.infer(observation(images=images))
    np.testing.assert_array_equal(chunk.actions, policy.infer(observation()).actions)
    with pytest.raises(PolicyError, match="needs camera 'primary'; the observation has wrist"):
        policy.infer(observation(images={"wrist": images["wrist"]}))
    with pytest.raises(PolicyError, match="takes 1 images; 2 cameras were given"):
        OpenVLAPolicy(predictor, policy.space, cameras=["primary", "wrist"], description="test")


def test_statistics_of_another_width_are_refused(predictor):
    wide = load_predictor(CASE.checkpoint, unnorm_key="bimanual_14d", dtype=torch.float32)
    with pytest.raises(StatisticsError, match="14 dimensions, but the action space has 7"):
        OpenVLAPolicy(wide, load_profile("widowx").space(), cameras=["primary"], description="test")


def test_unnorm_key_is_asked_for_and_checked():
    with pytest.raises(StatisticsError, match="give an unnorm_key; the choices are bridge_orig"):
        load_predictor(CASE.checkpoint)
    with pytest.raises(StatisticsError, match="no statistics for unnorm_key 'bridge'"):
        load_predictor(CASE.checkpoint, unnorm_key="bridge")


def test_a_closed_policy_says_so(policy):
    policy.reset()
    policy.close()
    policy.close()
    with pytest.raises(PolicyError, match="is closed"):
        policy.infer(observation())


def test_the_files_of_a_checkpoint_must_fit_each_other(predictor):
    from openvla_ros.errors import CheckpointError
    from openvla_ros.model.vision_language import check_sizes

    model = predictor.model
    one_tower = dataclasses.replace(model.transform, towers=model.transform.towers[:1])
    with pytest.raises(CheckpointError, match="makes 1 x"):
        check_sizes(model.network.config, model.tokenizer, one_tower, "test")
