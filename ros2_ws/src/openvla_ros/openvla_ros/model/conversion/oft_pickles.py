"""Converts OpenVLA-OFT checkpoints: pickled parts to safetensors, the implicit layout to a file."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from safetensors.torch import save_file
from torch import Tensor

from openvla_ros.errors import CheckpointError
from openvla_ros.model.checkpoints.merge import copy_small_files, new_folder
from openvla_ros.model.checkpoints.oft_parts import LAYOUT, PARTS, write_layout
from openvla_ros.model.checkpoints.safetensors import read_header, read_tensor, stored_tensors
from openvla_ros.model.checkpoints.verification import verify_files, write_checkpoint_sums
from openvla_ros.model.conversion.pickles import read_pickle
from openvla_ros.model.network.config_file import read_json
from openvla_ros.model.network.lora_delta import LowRankUpdate
from openvla_ros.model.network.oft import PLATFORMS, OFTLayout

Platform = Literal["libero", "bridge", "aloha"]
_FILM = re.compile(
    r"vision_backbone\.(?P<tower>featurizer|fused_featurizer)\.blocks\.(?P<block>\d+)"
    r"\.(?P<rest>(scale|shift)\.(weight|bias))"
)
_FILM_BLOCK = re.compile(r"(film\.\d+)\.blocks\.(\d+)\..*")


def convert_oft(source: Path, out: Path, platform: Platform | None, images: int | None) -> None:
    """Convert the OpenVLA-OFT checkpoint ``source``, with the layout of the platform it was trained for.

    ``images`` replaces the platform's number of images. Raises ``CheckpointError``.
    """
    if (source / LAYOUT).is_file():
        raise CheckpointError(f"{source} is already converted: it has {LAYOUT}")
    if platform is None:
        raise CheckpointError(f"{source} is an OpenVLA-OFT checkpoint; give --platform {'|'.join(PLATFORMS)}")
    parts = _oft_parts(source)
    if "noisy_action_projector" in parts:
        raise CheckpointError(f"{source} has a diffusion head; only L1 regression is supported")
    layout = _oft_layout(PLATFORMS[platform], parts, images, source)
    extra, backbone = _oft_weights(parts, source)
    unknown = backbone.keys() - stored_tensors(source).keys()
    if unknown:
        raise CheckpointError(f"{source}: vision_backbone has weights the model lacks: {min(unknown)}")
    out = new_folder(out)
    save_file(extra, out / PARTS, metadata={"format": "pt"})
    write_layout(out, layout)
    copy_small_files(source, out)
    for path in sorted(source.glob("*.safetensors")):
        verify_files([path])
        _copy_with(path, out / path.name, backbone)
    write_checkpoint_sums(out, (path.name for path in out.iterdir()))


def _oft_parts(source: Path) -> dict[str, dict[str, Tensor]]:
    """Return the weights of each part, without the prefix that distributed training adds."""
    found = {}
    for name in ("action_head", "proprio_projector", "noisy_action_projector", "vision_backbone"):
        paths = sorted(source.glob(f"{name}--*.pt"))
        if len(paths) > 1:
            raise CheckpointError(
                f"{source} has several {name} files; keep one: {', '.join(map(str, paths))}"
            )
        for path in paths:
            found[name] = {key.removeprefix("module."): value for key, value in read_pickle(path).items()}
    return found


def _oft_layout(
    platform: OFTLayout, parts: Mapping[str, Mapping[str, Tensor]], images: int | None, source: Path
) -> OFTLayout:
    head = parts.get("action_head")
    try:
        width = platform.action_width if head is None else head["model.fc2.weight"].shape[0]
        state = parts.get("proprio_projector")
        proprio = None if state is None else state["fc1.weight"].shape[1]
    except KeyError as error:
        raise CheckpointError(f"{source}: an OFT part has no {error.args[0]}") from error
    return replace(
        platform,
        action_width=width,
        images=platform.images if images is None else images,
        proprio_width=proprio,
        film="vision_backbone" in parts,
        regression=head is not None,
    )


def _oft_weights(
    parts: Mapping[str, Mapping[str, Tensor]], source: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the extra parts under this package's names, and the vision weights to replace the model's."""
    extra = {
        f"{name}.{key}": value.contiguous()
        for name in ("action_head", "proprio_projector")
        for key, value in parts.get(name, {}).items()
    }
    backbone: dict[str, Tensor] = {}
    for key, value in _without_lora(parts.get("vision_backbone", {}), source).items():
        film = _FILM.fullmatch(key)
        if film is None:
            name = key.removeprefix("vision_backbone.").replace(".block.", ".")
            backbone[f"vision_backbone.{name}"] = value.contiguous()
        else:
            tower = 1 if film["tower"] == "fused_featurizer" else 0
            extra[f"film.{tower}.blocks.{film['block']}.{film['rest']}"] = value.contiguous()
    return _without_last_film(extra), backbone


def _without_last_film(extra: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop FiLM of each tower's last block, which is never computed."""
    last: dict[str, int] = {}
    for key in extra:
        if match := _FILM_BLOCK.fullmatch(key):
            last[match[1]] = max(last.get(match[1], 0), int(match[2]))
    dead = tuple(f"{tower}.blocks.{block}." for tower, block in last.items())
    return {key: value for key, value in extra.items() if not (dead and key.startswith(dead))}


def _without_lora(weights: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Merge the LoRA that the original leaves inside the vision backbone's file."""
    merged = {}
    for key, value in weights.items():
        if ".lora_" in key:
            continue
        module, _, name = key.rpartition(".base_layer.")
        if not module:
            merged[key] = value
        elif name == "weight":
            down, up = (weights[f"{module}.lora_{factor}.default.weight"] for factor in "AB")
            scale = _oft_alpha(source, len(down)) / len(down)
            update = LowRankUpdate(down, up, scale).weight()
            merged[f"{module}.weight"] = (value.float() + update).to(value.dtype)
        else:
            merged[f"{module}.{name}"] = value
    return merged


def _oft_alpha(source: Path, rank: int) -> float:
    path = source / "lora_adapter" / "adapter_config.json"
    # openvla-oft: lora_alpha = min(lora_rank, 16)
    return float(read_json(path)["lora_alpha"]) if path.is_file() else float(min(rank, 16))


def _copy_with(path: Path, target: Path, replaced: Mapping[str, Tensor]) -> None:
    """Copy one shard, with the weights in ``replaced`` instead of its own."""
    stored = read_header(path)
    if not any(key in replaced for key in stored):
        shutil.copyfile(path, target)
        return
    tensors = {}
    for key, tensor in stored.items():
        value = read_tensor(tensor, key)
        tensors[key] = replaced.get(key, value).to(value.dtype).contiguous()
    save_file(tensors, target, metadata={"format": "pt"})
