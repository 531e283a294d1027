"""What is made on first use is made before the first real action; on the stand-in of captured stages."""

import logging

import numpy as np
import pytest
import torch
from support.fake_cuda_graphs import RehearsedStages
from support.golden_checkpoints import cases

from openvla_ros.errors import ModelOutputError
from openvla_ros.model.decoding.engine import Engine
from openvla_ros.model.decoding.greedy import GreedyDecoder
from openvla_ros.model.decoding.speculative import DraftingDecoder
from openvla_ros.model.decoding.steady import SteadyDecoder
from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.model.inference.predictor import OpenVLAPredictor, load_predictor
from openvla_ros.model.kernels.cuda_graphs import KEPT
from openvla_ros.policy.openvla_policy import WARM_UP_INSTRUCTION, OpenVLAPolicy
from openvla_ros.policy.protocol import Preparing
from openvla_ros.profile import load_profile
from openvla_ros.values.observation import Observation

CASE = next(case for case in cases() if case.prompt == "normal")
LONGER = WARM_UP_INSTRUCTION + " and wait beside it"


class CountedStages(RehearsedStages):
    """Counts the stages that are recorded."""

    def __init__(self):
        self.recorded = 0

    def prepare(self, work):
        self.recorded += 1
        return super().prepare(work)


@pytest.fixture(scope="module")
def plain():
    options = LoadOptions(
        unnorm_key=CASE.unnorm_key, dtype=torch.float32, decoder="plain", only_action_tokens=True
    )
    return load_predictor(CASE.checkpoint, options)


@pytest.fixture
def stages():
    return CountedStages()


@pytest.fixture(params=[DraftingDecoder, SteadyDecoder])
def policy(request, plain, stages):
    network = plain.model.network
    return policy_of(plain, request.param(network, True, Engine(network, stages)))


def policy_of(plain, decoder):
    predictor = OpenVLAPredictor(plain.model, decoder, plain.statistics)
    return OpenVLAPolicy(predictor, load_profile("widowx").space(), cameras=["primary"], description="test")


def observation(instruction):
    image = np.full((64, 64, 3), 90, dtype=np.uint8)
    return Observation(stamp_ns=1, images={"primary": image}, instruction=instruction)


def test_after_the_warm_up_an_action_records_nothing(policy, stages):
    assert isinstance(policy, Preparing)
    policy.warm_up()
    recorded = stages.recorded
    assert recorded > 0
    assert not policy.prepare(WARM_UP_INSTRUCTION)
    policy.infer(observation(WARM_UP_INSTRUCTION))
    assert stages.recorded == recorded


def test_another_length_is_recorded_when_its_instruction_comes_and_told_in_the_log(policy, stages, caplog):
    policy.warm_up()
    warm = stages.recorded
    with caplog.at_level(logging.INFO, "openvla_ros"):
        assert policy.prepare(LONGER)
    assert f"the last {KEPT} lengths are kept" in caplog.text
    recorded = stages.recorded
    assert recorded > warm
    policy.infer(observation(LONGER))
    policy.infer(observation(WARM_UP_INSTRUCTION))
    assert not policy.prepare(LONGER)
    assert stages.recorded == recorded
    assert policy.report()["stages_kept"] == f"2 of at most {KEPT} prompt lengths"


def test_lengths_that_are_kept_are_bounded(policy, plain):
    for words in range(KEPT + 3):
        instruction = "move" + " left" * words
        policy.prepare(instruction)
        prompts = policy.predictor.decoder.prompts
        assert len(prompts) == min(words + 1, KEPT)
    wanted = policy_of(plain, plain.decoder).infer(observation("move"))
    np.testing.assert_array_equal(policy.infer(observation("move")).actions, wanted.actions)


def test_the_warm_up_leaves_no_guess_and_no_count(plain, stages):
    network = plain.model.network
    decoder = DraftingDecoder(network, True, Engine(network, stages))
    policy = policy_of(plain, decoder)
    policy.warm_up()
    assert decoder.acceptance.actions == 0
    policy.infer(observation(LONGER))
    assert decoder.acceptance.actions == 1


def test_a_black_image_without_an_action_is_no_failure(plain, monkeypatch):
    def refuse(*_):
        raise ModelOutputError("ended the sequence")

    monkeypatch.setattr(GreedyDecoder, "decode", refuse)
    policy = policy_of(plain, plain.decoder)
    policy.warm_up()
    assert not policy.prepare(LONGER)
    with pytest.raises(ModelOutputError):
        policy.infer(observation(LONGER))
