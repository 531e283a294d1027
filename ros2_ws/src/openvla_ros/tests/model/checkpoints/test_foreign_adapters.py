"""Adapters that peft trained in other ways than plain LoRA: peft 0.21.2's numbers, or refused by name."""

import dataclasses
import json

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.golden_checkpoints import REFERENCE, cases, write_adapter
from support.shared_data import SHARED

from openvla_ros.errors import CheckpointError
from openvla_ros.model.checkpoints.adapter_config import REFUSED, SUPPORTED, WITHOUT_EFFECT
from openvla_ros.model.checkpoints.initial_update import initial_factors
from openvla_ros.model.checkpoints.lora_adapters import AdapterSet, read_adapter
from openvla_ros.model.checkpoints.merge import merge_adapter
from openvla_ros.model.checkpoints.safetensors import load_model
from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.model.inference.predictor import load_predictor

CASE = next(case for case in cases() if case.folder == REFERENCE)
LINEAR = [
    "language_model.model.layers.0.self_attn.q_proj",
    "language_model.model.layers.1.mlp.down_proj",
    "language_model.lm_head",
    "vision_backbone.featurizer.blocks.0.attn.qkv",
    "projector.fc1",
]
CONVOLUTION = "vision_backbone.featurizer.patch_embed.proj"


def logits_of(network):
    with torch.inference_mode():
        hidden = network.hidden_states(CASE.embeddings(network))[:, -1]
        return network.language_model.lm_head(hidden)[0]


def base_network():
    return load_model(CASE.checkpoint, dtype=torch.float32, progress=False)


def with_ours(folder):
    network = base_network()
    adapters = AdapterSet(network)
    adapters.add("ours", read_adapter(folder, CASE.checkpoint))
    adapters.activate("ours")
    return logits_of(network)


def make_peft(modules=LINEAR, **config):
    options = peft.LoraConfig(r=4, lora_alpha=8, target_modules=modules, **config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return peft.get_peft_model(base_network(), options).eval()


def change_a_little(model):
    """Stand in for training."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += 0.1 * parameter.data.abs().mean().clamp(min=0.2) * noise


def save(model, folder, **config):
    """Write what peft's ``save_pretrained`` writes for these models."""
    folder.mkdir()
    save_file(
        {key: value.contiguous() for key, value in peft.get_peft_model_state_dict(model).items()},
        folder / "adapter_model.safetensors",
    )
    model.peft_config["default"].save_pretrained(folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def test_every_field_of_peft_is_known():
    fields = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert fields - SUPPORTED - WITHOUT_EFFECT - REFUSED.keys() == set()
    assert not SUPPORTED & WITHOUT_EFFECT
    assert not (SUPPORTED | WITHOUT_EFFECT) & REFUSED.keys()


@pytest.mark.filterwarnings("ignore:Using Rank-Stabilized LoRA:UserWarning")
@pytest.mark.parametrize("init", [True, "gaussian", "orthogonal", "mica", "pissa", "olora"])
@pytest.mark.parametrize("scaling", [{}, {"use_rslora": True, "rank_pattern": {"lm_head": 2}}])
def test_the_logits_of_peft_after_training(tmp_path, init, scaling):
    model = make_peft(init_lora_weights=init, **scaling)
    change_a_little(model)
    ours = with_ours(save(model, tmp_path / "adapter"))
    torch.testing.assert_close(ours, logits_of(model.base_model.model), rtol=0, atol=2e-4)
    assert (ours - logits_of(base_network())).abs().max() > 0.1


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_an_untrained_adapter_is_the_base(tmp_path, init):
    """Applied as plain LoRA it would add the base's strongest directions a second time."""
    folder = save(make_peft(init_lora_weights=init), tmp_path / "adapter")
    torch.testing.assert_close(with_ours(folder), logits_of(base_network()), rtol=0, atol=1e-4)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": True}))
    assert (with_ours(folder) - logits_of(base_network())).abs().max() > 0.1


def test_the_shared_untrained_pissa_adapter_gives_the_bases_tokens():
    adapter = SHARED / "cases" / "adapters" / "pissa_untrained"
    if not adapter.is_dir():
        pytest.skip("needs the shared cases, which are not beside this checkout")
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    options = LoadOptions(dtype=torch.float32, unnorm_key=CASE.unnorm_key)
    plain = load_predictor(CASE.checkpoint, options).predict([image], "lift the cup")
    adapted = load_predictor(CASE.checkpoint, dataclasses.replace(options, adapter=adapter))
    assert np.array_equal(adapted.predict([image], "lift the cup").token_ids, plain.token_ids)


def test_an_initial_adapter_beside_it_makes_any_conversion_exact(tmp_path):
    """``pissa_niter_4`` starts from random vectors, so the base alone does not determine it."""
    model = make_peft(init_lora_weights="pissa_niter_4")
    initial = save(model, tmp_path / "initial", init_lora_weights=True)
    change_a_little(model)
    folder = save(model, tmp_path / "adapter")
    with pytest.raises(CheckpointError, match=r"pissa_niter_4.*path_initial_model_for_weight_conversion"):
        read_adapter(folder, CASE.checkpoint)
    initial.rename(folder / "initial_adapter")
    torch.testing.assert_close(with_ours(folder), logits_of(model.base_model.model), rtol=0, atol=2e-4)


@pytest.mark.filterwarnings("ignore:PiSSA changes the base weights:UserWarning")
def test_what_peft_converted_itself_is_plain_lora_and_the_same(tmp_path):
    model = make_peft(init_lora_weights="pissa")
    initial = save(model, tmp_path / "initial", init_lora_weights=True)
    change_a_little(model)
    model.save_pretrained(
        tmp_path / "converted",
        path_initial_model_for_weight_conversion=str(initial),
        save_embedding_layers=False,
    )
    ours = with_ours(save(model, tmp_path / "adapter"))
    torch.testing.assert_close(with_ours(tmp_path / "converted"), ours, rtol=0, atol=2e-4)


@pytest.mark.parametrize("init", ["corda", "lora_ga", "loftq", "pissa_niter_16", "kaiming", "pissa_niter_x"])
def test_what_cannot_be_converted_is_refused_by_name(tmp_path, init):
    folder = write_adapter(tmp_path / "adapter", REFERENCE, ["projector.fc1"], init_lora_weights=init)
    with pytest.raises(CheckpointError, match=f"init_lora_weights.*{init}"):
        read_adapter(folder, CASE.checkpoint)


def test_a_changed_base_must_be_given(tmp_path):
    folder = write_adapter(tmp_path / "adapter", REFERENCE, ["projector.fc1"], init_lora_weights="pissa")
    with pytest.raises(CheckpointError, match="only be read together with its base's weights"):
        read_adapter(folder)


def test_weights_that_do_not_determine_the_initial_factors_are_refused():
    with pytest.raises(CheckpointError, match="singular values 2 and 3 of its weight are 1 and 1: too close"):
        initial_factors("pissa", torch.eye(6), 2, 1.0)
    with pytest.raises(CheckpointError, match="first columns of its weight depend on each other"):
        initial_factors("olora", torch.ones(6, 6), 2, 1.0)
    with pytest.raises(CheckpointError, match="not defined for a weight"):
        initial_factors("pissa", torch.zeros(4, 3, 2, 2), 2, 1.0)


@pytest.mark.parametrize("init", [True, "pissa"])
def test_dora_gives_the_logits_of_peft(tmp_path, init):
    modules = LINEAR if init == "pissa" else [*LINEAR, CONVOLUTION]
    model = make_peft(modules, use_dora=True, init_lora_weights=init)
    change_a_little(model)
    folder = save(model, tmp_path / "adapter")
    wanted = logits_of(model.base_model.model)
    torch.testing.assert_close(with_ours(folder), wanted, rtol=0, atol=2e-4)
    path = folder / "adapter_model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "magnitude" not in k}, path)
    with pytest.raises(CheckpointError, match="has no lora_magnitude_vector"):
        read_adapter(folder, CASE.checkpoint)


def test_all_decoders_and_the_merged_checkpoint_agree_on_dora(tmp_path):
    model = make_peft([*LINEAR, CONVOLUTION], use_dora=True)
    change_a_little(model)
    folder = save(model, tmp_path / "adapter")
    merge_adapter(CASE.checkpoint, folder, tmp_path / "merged")
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    options = LoadOptions(dtype=torch.float32, unnorm_key=CASE.unnorm_key)
    found = {}
    for decoder in ("plain", "fast", "steady"):
        chosen = dataclasses.replace(options, decoder=decoder, adapter=folder)
        found[decoder] = load_predictor(CASE.checkpoint, chosen).predict([image], "lift the cup")
    plain = load_predictor(CASE.checkpoint, options).predict([image], "lift the cup")
    assert not np.array_equal(found["plain"].token_ids, plain.token_ids)
    for decoder in ("fast", "steady"):
        assert np.array_equal(found[decoder].token_ids, found["plain"].token_ids)
        np.testing.assert_allclose(found[decoder].probability, found["plain"].probability, atol=1e-4)
    merged = load_predictor(tmp_path / "merged", options).predict([image], "lift the cup")
    np.testing.assert_allclose(merged.probability, found["plain"].probability, rtol=0.1)  # bf16 weights


@pytest.mark.parametrize("field", sorted(REFUSED))
def test_fields_that_change_the_meaning_are_refused(tmp_path, field):
    folder = write_adapter(tmp_path / "adapter", REFERENCE, ["projector.fc1"], **{field: "all"})
    with pytest.raises(CheckpointError, match=rf"{field} is 'all' \(.*not supported"):
        read_adapter(folder)


def test_unknown_fields_are_refused_only_if_they_are_set(tmp_path):
    unset = {"future": None, "later": False, "next": [], "soon": {}, "then": ""}
    read_adapter(write_adapter(tmp_path / "unset", REFERENCE, ["projector.fc1"], **unset))
    folder = write_adapter(tmp_path / "set", REFERENCE, ["projector.fc1"], use_magic=True)
    with pytest.raises(CheckpointError, match=r"use_magic is True \(an unknown field"):
        read_adapter(folder)


def test_a_magnitude_without_dora_is_refused(tmp_path):
    folder = write_adapter(tmp_path / "adapter", REFERENCE, ["projector.fc1"])
    path = folder / "adapter_model.safetensors"
    key = "base_model.model.projector.fc1.lora_magnitude_vector"
    save_file(load_file(path) | {key: torch.ones(176)}, path)
    with pytest.raises(CheckpointError, match="lora_magnitude_vector is not a LoRA factor"):
        read_adapter(folder)


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_is_no_regular_expression_is_refused(tmp_path, field):
    folder = save(make_peft(), tmp_path / "adapter", **{field: {"(lm_head": 2}})
    with pytest.raises(CheckpointError, match=rf"{field} has '\(lm_head', which is no regular expression"):
        read_adapter(folder, CASE.checkpoint)
