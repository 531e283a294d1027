"""OpenVLA-OFT: conversion of its pickles, and the same numbers as a literal recomputation."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support import literal_oft as by_hand
from support.golden_checkpoints import REFERENCE

from openvla_ros.errors import CheckpointError, InvalidValueError, PolicyError, StatisticsError
from openvla_ros.integrity.checksums import SUMS
from openvla_ros.model.checkpoints.oft_parts import write_layout
from openvla_ros.model.conversion.checkpoint_conversion import convert_checkpoint
from openvla_ros.model.inference.inspection import describe
from openvla_ros.model.inference.loading import load_action_predictor
from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.model.network.oft import OFTLayout
from openvla_ros.policy.openvla_policy import PolicyChoices, load_openvla_policy
from openvla_ros.policy.proprioception import state_reader
from openvla_ros.preprocessing.image_transform import to_rgb
from openvla_ros.preprocessing.tf_image_ops import resize_lanczos
from openvla_ros.preprocessing.tf_jpeg import jpeg_round_trip
from openvla_ros.profile import load_profile
from openvla_ros.values.geometry import Pose
from openvla_ros.values.observation import Observation

KEY = "bridge_orig"
RANK = 3


def rand(generator, *shape):
    return torch.randn(shape, generator=generator) * 0.2


def linear_weights(generator, name, outside, inside):
    return {f"{name}.weight": rand(generator, outside, inside), f"{name}.bias": rand(generator, outside)}


def make_head(generator, hidden, width):
    head = linear_weights(generator, "model.fc1", hidden, hidden * width)
    head |= linear_weights(generator, "model.fc2", width, hidden)
    sizes = {"model.layer_norm1": hidden * width, "model.layer_norm2": hidden}
    for block in range(2):
        head |= linear_weights(generator, f"model.mlp_resnet_blocks.{block}.ffn.1", hidden, hidden)
        sizes[f"model.mlp_resnet_blocks.{block}.ffn.0"] = hidden
    for name, size in sizes.items():
        head |= {f"{name}.weight": 1 + rand(generator, size), f"{name}.bias": rand(generator, size)}
    return head


def make_film_backbone(generator, weights, hidden, adapted):
    """The vision backbone as the original saves it: wrapped blocks, and a LoRA left unmerged inside."""
    saved = {}
    for key, value in weights.items():
        if not key.startswith("vision_backbone."):
            continue
        parts = key.split(".")
        if parts[2] == "blocks":
            parts.insert(4, "block")
        name = "vision_backbone." + ".".join(parts[1:])
        module, _, leaf = name.rpartition(".")
        if module.endswith(adapted):
            saved[f"{module}.base_layer.{leaf}"] = value
        else:
            saved[name] = value
    for module in sorted({key.split(".base_layer")[0] for key in saved if ".base_layer" in key}):
        out, inside = saved[f"{module}.base_layer.weight"].shape
        saved[f"{module}.lora_A.default.weight"] = rand(generator, RANK, inside)
        saved[f"{module}.lora_B.default.weight"] = rand(generator, out, RANK)
    blocks = {key.split(".block.")[0] for key in saved if ".block." in key}
    for block in sorted(blocks):
        width = saved[f"{block}.block.norm1.weight"].shape[0]
        for part in ("scale", "shift"):
            saved |= linear_weights(generator, f"{block}.{part}", width, hidden)
    return saved


@dataclass(frozen=True)
class Sample:
    """A small OpenVLA-OFT checkpoint as the original writes it, what went into it, and its conversion."""

    kind: str
    source: Path
    out: Path
    weights: dict[str, torch.Tensor]
    parts: dict[str, dict[str, torch.Tensor]]
    images: int

    @property
    def takes_state(self):
        return "proprio_projector" in self.parts

    def load(self):
        return load_action_predictor(self.out, LoadOptions(unnorm_key=KEY, dtype=torch.float32))


@pytest.fixture(scope="module", params=["plain", "proprio", "film", "discrete"])
def oft(request, tmp_path_factory):
    kind, folder = request.param, tmp_path_factory.mktemp("oft")
    generator = torch.Generator().manual_seed(7)
    source, out = folder / "source", folder / "out"
    shutil.copytree(REFERENCE / "checkpoint", source)
    weights = {}
    for path in source.glob("*.safetensors"):
        weights |= {key: value.float() for key, value in load_file(path).items()}
    hidden = weights["language_model.model.norm.weight"].shape[0]
    parts = {}
    if kind != "discrete":
        parts["action_head"] = make_head(generator, hidden, 7)
    if kind in ("proprio", "film"):
        parts["proprio_projector"] = linear_weights(generator, "fc1", hidden, 7)
        parts["proprio_projector"] |= linear_weights(generator, "fc2", hidden, hidden)
    if kind == "film":
        parts["vision_backbone"] = make_film_backbone(generator, weights, hidden, "attn.qkv")
    for name, part in parts.items():
        prefix = "" if name == "vision_backbone" else "module."
        saved = {prefix + key: value for key, value in part.items()}
        torch.save(saved, source / f"{name}--100_checkpoint.pt")
    images = 2 if kind in ("proprio", "film") else 1
    if kind == "discrete":  # no part at all: only oft.json says that it is one
        shutil.copytree(source, out)
        write_layout(out, OFTLayout(5, 7, "quantiles", 1, regression=False))
        save_file({}, out / "oft_parts.safetensors")
    else:
        assert convert_checkpoint(source, out, platform="bridge", images=images) == "openvla-oft"
    return Sample(kind, source, out, weights, parts, images)


def images(count):
    first = to_rgb(Image.open(REFERENCE / "images" / "02.png").resize((224, 224)))
    return [first, np.ascontiguousarray(first[::-1, :, ::-1])][:count]


def recompute(oft, predictor, instruction, proprio):
    """The chunk's hidden states, by hand."""
    w, parts = oft.weights, oft.parts
    config = json.loads((REFERENCE / "checkpoint" / "config.json").read_text())
    ids = predictor.base.tokenizer.encode_prompt(
        f"In: What action should the robot take to {instruction}?\nOut:"
    )
    table = w["language_model.model.embed_tokens.weight"]
    prompt, end = table[ids], table[[2]]
    language = torch.cat([prompt, end]).mean(dim=0)
    film = [None, None]
    if oft.kind == "film":
        w = dict(w)
        saved = parts["vision_backbone"]
        for key in [key for key in saved if ".lora_A" in key]:
            module = key.split(".lora_A")[0]
            update = saved[f"{module}.lora_B.default.weight"] @ saved[key] * (min(RANK, 16) / RANK)
            name = module.removeprefix("vision_backbone.").replace(".block.", ".")
            # The shard keeps its own type: the merged weight is rounded to bf16.
            merged = (saved[f"{module}.base_layer.weight"] + update).bfloat16().float()
            w[f"vision_backbone.{name}.weight"] = merged
        for index, name in enumerate(("featurizer", "fused_featurizer")):
            prefix = f"vision_backbone.{name}.blocks."
            film[index] = {k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)}
    patches = []
    for image in images(oft.images):
        pixels = torch.from_numpy(predictor.base.transform(image))
        features = []
        names = ("featurizer", "fused_featurizer")
        for index, (name, sizes) in enumerate(zip(names, config["timm_model_kwargs"], strict=True)):
            features.append(
                by_hand.tower(
                    w, f"vision_backbone.{name}", pixels[3 * index : 3 * index + 3],
                    heads=sizes["num_heads"], depth=sizes["depth"], language=language, film=film[index],
                )
            )  # fmt: skip
        patches.append(by_hand.projector(w, torch.cat(features, dim=-1)))
    if proprio is not None:
        stats = json.loads((REFERENCE / "checkpoint" / "dataset_statistics.json").read_text())[KEY]["proprio"]
        low, high = np.array(stats["q01"]), np.array(stats["q99"])
        scaled = np.clip(2 * (proprio - low) / (high - low + 1e-8) - 1, -1, 1)
        state = torch.tensor(scaled, dtype=torch.float32)[None]
        part = parts["proprio_projector"]
        patches.append(
            by_hand.affine(part, "fc2", torch.nn.functional.gelu(by_hand.affine(part, "fc1", state)))
        )
    slots = torch.zeros(35, table.shape[1])
    x = torch.cat([prompt[:1], *patches, prompt[1:], slots, end])
    text = config["text_config"]
    hidden = by_hand.language_model(w, x, heads=text["num_attention_heads"], layers=text["num_hidden_layers"])
    return hidden[-1 - 35 - 1 : -1 - 1], w


def test_the_same_numbers_as_by_hand(oft):
    predictor = oft.load()
    assert predictor.image_count == oft.images
    proprio = np.linspace(-1, 1, 7) if oft.takes_state else None
    assert predictor.proprio_width == (7 if oft.takes_state else None)
    prediction = predictor.predict(images(oft.images), "put SPOON on towel", proprio)
    hidden, w = recompute(oft, predictor, "put spoon on towel", proprio)
    stats = json.loads((REFERENCE / "checkpoint" / "dataset_statistics.json").read_text())[KEY]["action"]
    low, high, mask = (np.array(stats[name]) for name in ("q01", "q99", "mask"))
    if oft.kind == "discrete":
        ids = (hidden @ w["language_model.lm_head.weight"].T).argmax(dim=-1).numpy()
        np.testing.assert_array_equal(prediction.token_ids.ravel(), ids)
        centers = np.linspace(-1, 1, 256)[:-1] + 1 / 255
        normalised = centers[np.clip(32000 - ids - 1, 0, 254)].reshape(5, 7)
        assert prediction.probability.shape == prediction.entropy.shape == (5, 7)
    else:
        normalised = by_hand.regression_head(oft.parts["action_head"], hidden, 5).numpy()
        assert prediction.token_ids is None
    expected = np.where(mask, 0.5 * (normalised + 1) * (high - low + 1e-8) + low, normalised)
    np.testing.assert_allclose(prediction.actions, expected, rtol=1e-4, atol=1e-5)


def test_what_inspect_says_before_and_after(oft, tmp_path):
    found = describe(oft.out)
    assert found["kind"] == "openvla-oft"
    assert found["problems"] == []
    assert found["layout"]["images"] == oft.images
    assert found["layout"]["film"] == (oft.kind == "film")
    assert not list(oft.out.glob("*.pt"))
    if oft.parts:
        before = describe(oft.source)
        assert before["kind"] == "openvla-oft"
        assert len(before["pickles"]) == len(oft.parts)
        with pytest.raises(CheckpointError, match=r"has no oft\.json: openvla convert-checkpoint"):
            load_action_predictor(oft.source, LoadOptions(unnorm_key=KEY))
        with pytest.raises(CheckpointError, match="already converted"):
            convert_checkpoint(oft.out, tmp_path / "again", platform="bridge")
        with pytest.raises(CheckpointError, match=r"give --platform libero\|bridge\|aloha"):
            convert_checkpoint(oft.source, tmp_path / "again")


def test_wrong_inputs_are_named(oft):
    predictor = oft.load()
    state = np.zeros(7) if oft.takes_state else None
    with pytest.raises(InvalidValueError, match=f"this model takes {oft.images}"):
        predictor.predict(images(2) * 2, "lift", state)
    with pytest.raises(InvalidValueError, match="no images"):
        predictor.predict([], "lift", state)
    with pytest.raises(InvalidValueError, match="this model takes"):
        predictor.predict(images(oft.images), "lift", None if oft.takes_state else np.zeros(7))
    with pytest.raises(StatisticsError, match="14 dimensions"):
        load_action_predictor(oft.out, LoadOptions(unnorm_key="bimanual_14d"))


def test_other_sizes_go_through_the_resize_of_the_evaluation(oft):
    predictor = oft.load()
    state = np.zeros(7) if oft.takes_state else None
    large = [np.repeat(np.repeat(image, 2, axis=0), 2, axis=1) for image in images(oft.images)]
    small = [resize_lanczos(jpeg_round_trip(image)) for image in large]
    one, other = (predictor.predict(seen, "lift", state).actions for seen in (large, small))
    np.testing.assert_array_equal(one, other)


def test_as_a_policy(oft):
    cameras = ("primary", "wrist")[: oft.images]
    choices = PolicyChoices(unnorm_key=KEY, cameras=cameras, state="joints_gripper")
    profile = load_profile("sim_widowx")
    policy = load_openvla_policy(oft.out, profile, choices=choices, options=LoadOptions(dtype=torch.float32))
    named = dict(zip(cameras, images(oft.images), strict=True))
    seen = Observation(1, named, "lift", joint_positions=np.zeros(6), gripper=1.0)
    assert policy.infer(seen).actions.shape == (5, 7)
    blind = Observation(1, named, "lift")
    if oft.takes_state:
        with pytest.raises(PolicyError, match="joint positions and the gripper"):
            policy.infer(blind)
    else:
        np.testing.assert_array_equal(policy.infer(blind).actions, policy.infer(seen).actions)


def test_a_diffusion_head_is_refused(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(REFERENCE / "checkpoint", source)
    torch.save({"fc1.weight": torch.zeros(2, 1)}, source / "noisy_action_projector--1_checkpoint.pt")
    with pytest.raises(CheckpointError, match="diffusion head"):
        convert_checkpoint(source, tmp_path / "out", platform="libero")


def test_parts_that_do_not_fit(oft, tmp_path):
    out = shutil.copytree(oft.out, tmp_path / "out", ignore=shutil.ignore_patterns(SUMS))
    layout = json.loads((out / "oft.json").read_text())
    (out / "oft.json").write_text(json.dumps(layout | {"chunk": "8"}))
    with pytest.raises(CheckpointError, match=r"(?s)oft\.json.*chunk"):
        load_action_predictor(out, LoadOptions(unnorm_key=KEY))
    other = {"proprio_width": 7, "film": oft.kind != "film", "regression": True}
    (out / "oft.json").write_text(json.dumps(layout | other))
    with pytest.raises(CheckpointError, match=r"oft_parts\.safetensors does not fit oft\.json: \d+ "):
        load_action_predictor(out, LoadOptions(unnorm_key=KEY))


def test_the_state_of_bridge_data_counts_angles_from_straight_down():
    profile = load_profile("sim_widowx")
    read = state_reader("pose_gripper", profile)
    down = Pose.from_euler([0.3, 0.1, 0.2], profile.arm.state_rotation_offset)
    images = {"primary": np.zeros((4, 4, 3), np.uint8)}
    state = read(Observation(1, images, "lift", pose=down, gripper=0.25))
    np.testing.assert_allclose(state, [0.3, 0.1, 0.2, 0, 0, 0, 0.25], atol=1e-12)
    with pytest.raises(PolicyError, match="pose and the gripper"):
        read(Observation(1, images, "lift", gripper=0.25))
    with pytest.raises(InvalidValueError, match="the choices are pose_gripper, joints_gripper"):
        state_reader("joints", profile)
