"""Converts Prismatic's native checkpoints: ``config.json`` and a pickled ``checkpoints/*.pt``.

The names and sizes become those of the published checkpoints, the weights bf16 safetensors. The
image normalisation is timm's own, as Prismatic uses it, not the rounded one of openvla-7b.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from openvla_ros.errors import CheckpointError
from openvla_ros.model.checkpoints.merge import new_folder
from openvla_ros.model.checkpoints.safetensors import compare_keys, skeleton
from openvla_ros.model.checkpoints.verification import write_checkpoint_sums
from openvla_ros.model.conversion.pickles import read_pickle
from openvla_ros.model.network.config import TOWERS
from openvla_ros.model.network.config_file import parse_config, read_json
from openvla_ros.preprocessing.dataset_statistics import STATISTICS

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_HEAD_WIDTH = 128  # of each attention head of Llama-2


@dataclass(frozen=True)
class PrismaticModel:
    """The components that the names in a Prismatic configuration stand for."""

    vision_backbone_id: str
    llm_backbone_id: str
    arch_specifier: str
    image_resize_strategy: str


# prismatic/conf/models.py: the two base models that published OpenVLA checkpoints were trained from.
BASE_MODELS = {
    "prism-dinosiglip-224px+7b": PrismaticModel(
        "dinosiglip-vit-so-224px", "llama2-7b-pure", "no-align+fused-gelu-mlp", "resize-naive"
    ),
    "siglip-224px+7b": PrismaticModel("siglip-vit-so400m", "vicuna-v15-7b", "no-align+gelu-mlp", "letterbox"),
}
_DINOV2, _SIGLIP, _SIGLIP_384 = TOWERS
_BACKBONES = {
    "dinosiglip-vit-so-224px": ((_DINOV2, _SIGLIP), 224),
    "dinosiglip-vit-so-384px": ((_DINOV2, _SIGLIP_384), 384),
    "siglip-vit-so400m": ((_SIGLIP,), 224),
    "siglip-vit-so400m-384px": ((_SIGLIP_384,), 384),
    "dinov2-vit-l": ((_DINOV2,), 224),
}
_NORMALISATION = {  # timm's mean and standard deviation
    _DINOV2: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    _SIGLIP: ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    _SIGLIP_384: ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def convert_prismatic(source: Path, out: Path, tokenizer: Path) -> None:
    """Convert the native checkpoint ``source``, with the tokenizer from another folder.

    Raises ``CheckpointError`` if the tokenizer, a weight or a known configuration is missing.
    """
    if not (tokenizer / "tokenizer.json").is_file():
        raise CheckpointError(f"{tokenizer} has no tokenizer.json; give --tokenizer a folder that has one")
    native = read_json(source / "config.json")
    model = _named_model(native, str(source / "config.json"))
    weights = _published_names(read_pickle(_only_pickle(source)), source)
    config = _published_config(native, model, weights, source)
    expected = skeleton(parse_config(config, str(source))).state_dict()
    problems = compare_keys(
        {key: tuple(value.shape) for key, value in expected.items()},
        {key: tuple(value.shape) for key, value in weights.items()},
    )
    if problems:
        raise CheckpointError(f"{source} does not match its configuration: " + "; ".join(problems))
    out = new_folder(out)
    stored = {key: value.to(torch.bfloat16).contiguous() for key, value in weights.items()}
    save_torch_state_dict(stored, out)
    _write_json(out / "config.json", config)
    _write_json(out / "preprocessor_config.json", _preprocessor(config))
    for name in _TOKENIZER:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, out / name)
    if (source / STATISTICS).is_file():
        shutil.copyfile(source / STATISTICS, out / STATISTICS)
    write_checkpoint_sums(out, (path.name for path in out.iterdir()))


def _only_pickle(source: Path) -> Path:
    found = sorted((source / "checkpoints").glob("*.pt"))
    latest = source / "checkpoints" / "latest-checkpoint.pt"
    if latest in found:
        return latest
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise CheckpointError(f"{source / 'checkpoints'} must contain one .pt file; it contains {names}")
    return found[0]


def _named_model(native: Mapping[str, Any], origin: str) -> PrismaticModel:
    stated = native.get("model")
    if isinstance(stated, Mapping):
        try:
            model = PrismaticModel(**{name: stated[name] for name in PrismaticModel.__dataclass_fields__})
        except KeyError as error:
            raise CheckpointError(f"{origin}: model.{error.args[0]} is missing") from error
    else:
        base = native.get("vla", {}).get("base_vlm")
        if base not in BASE_MODELS:
            raise CheckpointError(f"{origin}: vla.base_vlm is {base!r}; known: {', '.join(BASE_MODELS)}")
        model = BASE_MODELS[base]
    if model.vision_backbone_id not in _BACKBONES:
        raise CheckpointError(
            f"{origin}: vision_backbone_id is {model.vision_backbone_id!r}; known: {', '.join(_BACKBONES)}"
        )
    return model


_RENAMES = (
    (re.compile(r"^vision_backbone\.dino_featurizer\."), "vision_backbone.featurizer."),
    (re.compile(r"^vision_backbone\.siglip_featurizer\."), "vision_backbone.fused_featurizer."),
    (re.compile(r"^projector\.projector\.0\."), "projector.fc1."),
    (re.compile(r"^projector\.projector\.2\."), "projector.fc2."),
    (re.compile(r"^projector\.projector\.4\."), "projector.fc3."),
    (re.compile(r"^llm_backbone\.llm\."), "language_model."),
    (re.compile(r"\.gamma$"), ".scale_factor"),
)


def _published_names(native: Mapping[str, Any], source: Path) -> dict[str, Tensor]:
    parts = native.get("model")
    wanted = ("vision_backbone", "projector", "llm_backbone")
    if not isinstance(parts, Mapping) or any(part not in parts for part in wanted):
        have = ", ".join(parts) if isinstance(parts, Mapping) else type(parts).__name__
        raise CheckpointError(f"{source}: the .pt must contain model.{{{', '.join(wanted)}}}; it has {have}")
    weights = {}
    for part in wanted:
        for key, value in parts[part].items():
            name = f"{part}.{key}"
            for pattern, replacement in _RENAMES:
                name = pattern.sub(replacement, name)
            if not name.endswith("rotary_emb.inv_freq"):  # a buffer that old versions saved
                weights[name] = value
    return weights


def _published_config(
    native: Mapping[str, Any], model: PrismaticModel, weights: Mapping[str, Tensor], source: Path
) -> dict[str, Any]:
    towers, size = _BACKBONES[model.vision_backbone_id]
    config: dict[str, Any] = {
        "architectures": ["OpenVLAForActionPrediction"],
        "model_type": "openvla" if "vla" in native else "prismatic",
        "arch_specifier": model.arch_specifier,
        "image_resize_strategy": model.image_resize_strategy,
        "image_sizes": [size] * len(towers),
        "llm_backbone_id": model.llm_backbone_id,
        "vision_backbone_id": model.vision_backbone_id,
        "timm_model_ids": list(towers),
        "timm_override_act_layers": [None] * len(towers),
        "use_fused_vision_backbone": len(towers) == 2,
        "n_action_bins": 256,
        "pad_to_multiple_of": 64,
        "pad_token_id": 32000,
        "torch_dtype": "bfloat16",
        "text_config": native.get("text_config") or _text_config(weights, source),
    }
    if native.get("timm_model_kwargs") is not None:
        config["timm_model_kwargs"] = native["timm_model_kwargs"]
    if (source / STATISTICS).is_file():
        config["norm_stats"] = read_json(source / STATISTICS)
    return config


def _text_config(weights: Mapping[str, Tensor], source: Path) -> dict[str, Any]:
    """Return the language model's sizes, inferred from its weights."""
    try:
        vocabulary, hidden = weights["language_model.model.embed_tokens.weight"].shape
        intermediate = weights["language_model.model.layers.0.mlp.gate_proj.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"{source}: the language model has no {error.args[0]}") from error
    layers = {key.split(".")[3] for key in weights if key.startswith("language_model.model.layers.")}
    return {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, hidden // _HEAD_WIDTH),
        "pad_token_id": 32000,
    }


def _preprocessor(config: Mapping[str, Any]) -> dict[str, Any]:
    towers, size = config["timm_model_ids"], config["image_sizes"][0]
    return {
        "image_processor_type": "PrismaticImageProcessor",
        "image_resize_strategy": config["image_resize_strategy"],
        "input_sizes": [[3, size, size] for _ in towers],
        "interpolations": ["bicubic" for _ in towers],
        "means": [list(_NORMALISATION[tower][0]) for tower in towers],
        "stds": [list(_NORMALISATION[tower][1]) for tower in towers],
        "use_fused_vision_backbone": len(towers) == 2,
    }


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
