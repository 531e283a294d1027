"""The trainer's own loss path against the original's loss and gradients, and LoRA against peft."""

import json

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from support.golden_checkpoints import SETS
from support.literal_loss import supervise

from openvla_ros.model.checkpoints.lora_adapters import AdapterSet, read_adapter
from openvla_ros.model.checkpoints.safetensors import load_model
from openvla_ros.model.inference.checkpoint_files import read_transform
from openvla_ros.preprocessing.image_transform import ImageTransform
from openvla_ros.training.data.batch import Batch
from openvla_ros.training.lora_layers import (
    LowRankOptions,
    adapter_config,
    attach,
    detach,
    factors,
    select_targets,
    write_adapter,
)
from openvla_ros.training.recipe import Recipe
from openvla_ros.training.trainable import make_trainable
from openvla_ros.training.trainer import Trainer

WIDTH = 7


def golden_batch(folder, transform: ImageTransform) -> tuple[Batch, dict]:
    with np.load(folder / "train_batch.npz") as file:
        golden = dict(file)
    pixels = np.stack([transform(image) for image in golden["images"]])
    labels = torch.from_numpy(golden["labels"])
    batch = Batch(
        torch.from_numpy(pixels), torch.from_numpy(golden["input_ids"]), labels,
        torch.ones(len(labels), dtype=torch.bool),
    )  # fmt: skip
    return batch, golden


@pytest.fixture(params=[f for f in SETS if (f / "train_batch.npz").is_file()], ids=lambda f: f.name)
def golden(request):
    folder = request.param
    model = load_model(folder / "checkpoint", dtype=torch.float32, progress=False)
    batch, numbers = golden_batch(folder, read_transform(folder / "checkpoint"))
    norms = json.loads((folder / "train_grad_norms.json").read_text())
    return model, batch, numbers, norms


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_loss_scores_and_every_gradient_norm_are_the_originals(golden, micro_batch):
    model, batch, numbers, norms = golden
    recipe = Recipe(method="full", micro_batch=micro_batch)
    make_trainable(model, recipe)
    scores = Trainer(model, recipe, WIDTH).gradients(batch)
    assert scores.loss == pytest.approx(float(numbers["loss"]), abs=2e-5)
    assert scores.action_loss == scores.loss
    assert scores.accuracy == pytest.approx(float(numbers["action_accuracy"]), abs=1e-7)
    assert scores.l1 == pytest.approx(float(numbers["l1_loss"]), rel=1e-6)
    compared = 0
    for name, parameter in model.named_parameters():
        want = norms[name]
        assert want is not None, name
        assert float(parameter.grad.norm()) == pytest.approx(want, rel=2e-3, abs=1e-6), name
        compared += 1
    assert compared == sum(value is not None for value in norms.values())


def test_low_rank_gradients_are_those_of_the_textbook_formula(golden):
    """The merged product with its own backward, against autograd through x A^T B^T beside the layer."""
    model, batch, _, _ = golden
    recipe = Recipe(rank=4)
    targets = make_trainable(model, recipe)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B"):
                parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(len(name)))
    trainer = Trainer(model, recipe, WIDTH)
    trainer.gradients(batch)
    ours = {name: value.grad.clone() for name, value in trainer.parameters.items()}
    tensors = factors(model)
    detach(model)
    peft_config = peft.LoraConfig(r=4, lora_alpha=4.0, target_modules=targets, init_lora_weights="gaussian")
    wrapped = peft.inject_adapter_in_model(peft_config, model)
    loaded = peft.set_peft_model_state_dict(wrapped, tensors)
    assert not loaded.unexpected_keys
    supervise(wrapped, batch.pixels, batch.token_ids, batch.labels).loss.backward()
    theirs = {
        name.replace(".default.weight", ""): value.grad
        for name, value in wrapped.named_parameters()
        if value.requires_grad
    }
    assert set(theirs) == set(ours)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=2e-3, atol=2e-6, msg=name)


def test_a_written_adapter_gives_the_trained_network_in_our_reader(golden, tmp_path):
    model, batch, _, _ = golden
    options = LowRankOptions(rank=4, alpha=8.0)
    targets = select_targets(model, None)
    attach(model, targets, options, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B"):
                parameter.normal_(std=0.05, generator=generator)
        want = model(batch.pixels, batch.token_ids)
        write_adapter(tmp_path, factors(model), targets, options, "base")
        detach(model)
        base = model(batch.pixels, batch.token_ids)
        adapters = AdapterSet(model)
        adapters.add("trained", read_adapter(tmp_path))
        adapters.activate("trained")
        got = model(batch.pixels, batch.token_ids)
    assert not torch.allclose(base, want, atol=1e-3)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    config = peft.LoraConfig.from_pretrained(tmp_path)
    assert (config.r, config.lora_alpha) == (4, 8.0)
    assert set(load_file(tmp_path / "adapter_model.safetensors")) == set(factors_names(targets))


def factors_names(targets):
    return [f"base_model.model.{name}.lora_{factor}.weight" for name in targets for factor in "AB"]


def test_the_default_targets_are_those_of_old_peft(reference_folder):
    """All but the layers that are never computed, which the original adapts to no effect."""
    listed = json.loads((reference_folder / "lora_all_linear.json").read_text())["lora_modules"]
    model = load_model(reference_folder / "checkpoint", dtype=torch.float32, progress=False)
    targets = select_targets(model, None)
    modules = dict(model.named_modules())
    assert sorted(targets) == sorted(name for name in listed if name in modules)
    assert adapter_config(targets, LowRankOptions(), "x")["lora_alpha"] == 16.0


def test_the_original_number_of_parameters_is_trained_at_7b():
    """110,828,288 with the dead layers, from the published shapes alone."""
    from openvla_ros.model.checkpoints.safetensors import skeleton
    from openvla_ros.model.network.config_file import parse_config

    network = skeleton(parse_config(CONFIG_7B, "openvla-7b"))
    count = 0
    for name in select_targets(network, None):
        weight = network.get_submodule(name).weight
        inside, out = weight[0].numel(), weight.shape[0]
        count += 32 * (inside + out)
    assert count == 110_828_288


CONFIG_7B = {
    "model_type": "openvla",
    "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
    "image_sizes": [224, 224],
    "use_fused_vision_backbone": True,
    "arch_specifier": "no-align+fused-gelu-mlp",
    "text_config": {"model_type": "llama", "vocab_size": 32064, "pad_token_id": 32000},
}
