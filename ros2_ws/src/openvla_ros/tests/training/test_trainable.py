"""Which parts each method trains, and that a whole checkpoint holds exactly those."""

from dataclasses import replace

import pytest
import torch
from support.generated_episodes import make_episode
from support.tiny_training_run import PROFILE, SIZE, WHOLE, Notes, make_request

from openvla_ros.model.checkpoints.safetensors import load_model, stored_tensors
from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.model.network.config_file import parse_config
from openvla_ros.model.network.openvla import OpenVLA
from openvla_ros.policy.openvla_policy import load_openvla_policy
from openvla_ros.pretraining.small_model import small_config
from openvla_ros.training.distributed import Processes
from openvla_ros.training.finetune import Run
from openvla_ros.training.recipe import Recipe
from openvla_ros.training.trainable import make_trainable, trained_parameters

pytestmark = pytest.mark.usefixtures("no_report")


def parts_trained(method):
    model = OpenVLA(parse_config(small_config(SIZE), "test"))
    make_trainable(model, Recipe(method=method))
    return set(trained_parameters(model)), set(dict(model.named_parameters()))


def test_each_method_of_the_paper_trains_what_it_says():
    last = "language_model.model.layers.1."
    for method, trained, frozen in (
        ("last-layer", [last, "lm_head", "embed_tokens"], ["vision", "projector", "layers.0", "model.norm"]),
        ("frozen-vision", [last, "layers.0", "projector", "lm_head"], ["vision_backbone"]),
        ("sandwich", [last, "vision_backbone", "projector", "lm_head"], ["layers.0"]),
    ):
        names, everything = parts_trained(method)
        for part in trained:
            assert {n for n in everything if part in n} <= names, (method, part)
        for part in frozen:
            assert not [n for n in names if part in n], (method, part)
    names, everything = parts_trained("full")
    assert names == everything


def test_a_whole_checkpoint_loads_like_any_other_and_holds_what_was_trained(base, data, tmp_path):
    recipe = replace(WHOLE, method="sandwich", steps=3, learning_rate=1e-3)
    run = Run(make_request(base, data, tmp_path, recipe), Notes(), Processes())
    run.train()
    assert stored_tensors(tmp_path).keys() == stored_tensors(base).keys()
    loaded, before = (dict(load_model(f, dtype=torch.float32).named_parameters()) for f in (tmp_path, base))
    for name, value in run.trainer.network.named_parameters():
        assert torch.equal(loaded[name], value), name
        assert torch.equal(loaded[name], before[name]) == (not value.requires_grad), name
    policy = load_openvla_policy(tmp_path, PROFILE, options=LoadOptions(dtype=torch.float32))
    assert policy.infer(make_episode(0).observation(0)).actions.shape == (1, 7)
