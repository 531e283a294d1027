"""Describes a checkpoint folder from its small files and the headers of its weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from openvla_ros.errors import CheckpointError
from openvla_ros.integrity.checksums import read_sums
from openvla_ros.manifest import MANIFEST_NAME, manifest_path, read_manifest
from openvla_ros.model.checkpoints.adapter_config import ADAPTER_CONFIG, read_adapter_config
from openvla_ros.model.checkpoints.lora_adapters import ADAPTER_WEIGHTS, adapter_tensors
from openvla_ros.model.checkpoints.oft_parts import LAYOUT, PARTS, read_layout
from openvla_ros.model.checkpoints.safetensors import (
    INDEX,
    SINGLE,
    StoredTensor,
    differences,
    skeleton,
    stored_tensors,
)
from openvla_ros.model.checkpoints.verification import describe_checksums
from openvla_ros.model.inference.checkpoint_files import default_prompt_style, read_transform
from openvla_ros.model.network.config import OpenVLAConfig
from openvla_ros.model.network.config_file import parse_config, read_json
from openvla_ros.preprocessing.dataset_statistics import (
    STATISTICS,
    DatasetStatistics,
    parse_norm_stats,
    read_statistics,
)

Kind = Literal["openvla", "openvla-oft", "prismatic", "prismatic-native", "lora-adapter"]

# Parts that OpenVLA-OFT saves beside the model, as pickles; converted they are safetensors.
OFT_PARTS = ("action_head", "proprio_projector", "noisy_action_projector", "vision_backbone")

_FILES = (
    "config.json", "preprocessor_config.json", "tokenizer.json", INDEX, STATISTICS, MANIFEST_NAME,
    ADAPTER_CONFIG, ADAPTER_WEIGHTS, LAYOUT, PARTS,
)  # fmt: skip


def kind_of(folder: Path) -> Kind:
    """Return the kind of checkpoint in ``folder``; raises ``CheckpointError`` if there is none."""
    if not (folder / "config.json").is_file():
        if (folder / ADAPTER_CONFIG).is_file():
            return "lora-adapter"
        raise CheckpointError(f"{folder} is not a checkpoint: it lacks config.json and {ADAPTER_CONFIG}")
    config = read_json(folder / "config.json")
    if "vla" in config or isinstance(config.get("model"), Mapping):
        return "prismatic-native"
    if (folder / LAYOUT).is_file() or any(path for part in OFT_PARTS for path in folder.glob(f"{part}--*")):
        return "openvla-oft"
    return "prismatic" if config.get("model_type") == "prismatic" else "openvla"


def describe(folder: Path) -> dict[str, Any]:
    """Describe ``folder`` as JSON values. Opens no pickle; reads weights only to verify their checksums.

    ``problems`` lists where the weights do not match ``config.json``. Raises ``CheckpointError``.
    """
    kind = kind_of(folder)
    found: dict[str, Any] = {"kind": kind, "folder": str(folder)}
    match kind:
        case "lora-adapter":
            found |= _describe_adapter(folder)
        case "prismatic-native":
            found |= _describe_native(folder)
        case "openvla-oft":
            found |= _describe_model(folder) | _describe_oft(folder)
        case "openvla" | "prismatic":
            found |= _describe_model(folder)
    found["checksums"] = describe_checksums(folder, _files(folder))
    if (folder / STATISTICS).is_file():
        found["datasets"] = _datasets(read_statistics(folder / STATISTICS))
    return found | _describe_manifest(folder)


def _files(folder: Path) -> list[str]:
    """Return the names of the files of a checkpoint or adapter."""
    names = [*_FILES, *read_sums(folder)]
    if (folder / SINGLE).is_file() or (folder / INDEX).is_file():
        names += [tensor.path.name for tensor in stored_tensors(folder).values()]
    return names


def _describe_model(folder: Path) -> dict[str, Any]:
    config = parse_config(read_json(folder / "config.json"), str(folder / "config.json"))
    stored = stored_tensors(folder)
    transform = read_transform(folder)
    return {
        "model_type": config.model_type,
        "towers": [asdict(tower) for tower in config.towers()],
        "language_model": asdict(config.text_config),
        "image": {"strategy": transform.strategy, "size": list(transform.size), "patches": config.patches},
        "prompt_style": default_prompt_style(config),
        "problems": differences(skeleton(config), stored),
        "datasets": _config_datasets(config, folder),
        **_describe_weights(stored),
    }


def _describe_adapter(folder: Path) -> dict[str, Any]:
    config = read_adapter_config(folder)
    stored = adapter_tensors(folder)
    modules = sorted({key.rsplit(".lora_", 1)[0].removeprefix("base_model.model.") for key in stored})
    return {
        "base_model": config.base_model_name_or_path,
        "rank": config.r,
        "alpha": config.lora_alpha,
        "modules": len(modules),
        "adapts_output_head": any(module.endswith("lm_head") for module in modules),
        "adapts_patch_embedding": any(module.endswith("patch_embed.proj") for module in modules),
        **_describe_weights(stored),
    }


def _describe_oft(folder: Path) -> dict[str, Any]:
    pickles = sorted(path.name for part in OFT_PARTS for path in folder.glob(f"{part}--*"))
    if not (folder / LAYOUT).is_file():
        return {"pickles": pickles, "hint": "openvla convert-checkpoint converts the parts to safetensors"}
    return {"layout": asdict(read_layout(folder))}


def _describe_native(folder: Path) -> dict[str, Any]:
    pickles = sorted((folder / "checkpoints").glob("*.pt"))
    return {
        "pickles": [path.name for path in pickles],
        "size_bytes": sum(path.stat().st_size for path in pickles),
        "hint": "openvla convert-checkpoint converts it to safetensors",
    }


def _describe_weights(stored: Mapping[str, StoredTensor]) -> dict[str, Any]:
    return {
        "parameters": sum(math.prod(tensor.shape) for tensor in stored.values()),
        "size_bytes": sum(tensor.size_bytes for tensor in stored.values()),
        "stored_types": dict(Counter(tensor.stored_type for tensor in stored.values())),
        "shards": len({tensor.path for tensor in stored.values()}),
    }


def _describe_manifest(folder: Path) -> dict[str, Any]:
    if not manifest_path(folder).is_file():
        return {"manifest": None, "action_space": None}
    manifest = read_manifest(folder)
    manifest.check_statistics(folder)
    values = manifest.to_json()
    return {"manifest": values, "action_space": values["action_space"]}


def _config_datasets(config: OpenVLAConfig, folder: Path) -> dict[str, Any]:
    if not config.norm_stats:
        return {}
    return _datasets(parse_norm_stats(config.norm_stats, str(folder / "config.json")))


def _datasets(statistics: Mapping[str, DatasetStatistics]) -> dict[str, Any]:
    return {
        key: {
            "action_width": dataset.action.width,
            "proprio_width": None if dataset.proprio is None else dataset.proprio.width,
            "transitions": dataset.num_transitions,
            "trajectories": dataset.num_trajectories,
        }
        for key, dataset in statistics.items()
    }
