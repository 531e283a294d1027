"""OpenVLA-OFT checkpoints after conversion: the extra parts, and ``oft.json``.

The original saves the extra parts as pickles and does not store the chunk length;
``conversion.oft_pickles`` converts both once, and only the result is read here.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from openvla_ros.errors import CheckpointError, InvalidValueError
from openvla_ros.integrity.validation_errors import validation_lines
from openvla_ros.model.checkpoints.safetensors import assign, compare_keys, read_header, read_tensor
from openvla_ros.model.checkpoints.verification import verify_files
from openvla_ros.model.network.config_file import read_json
from openvla_ros.model.network.oft import OFTLayout, OpenVLAOFT
from openvla_ros.model.network.openvla import OpenVLA

LAYOUT = "oft.json"
PARTS = "oft_parts.safetensors"


def read_layout(folder: Path) -> OFTLayout:
    """Return the layout in ``folder/oft.json``; raises ``CheckpointError``."""
    path = folder / LAYOUT
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {LAYOUT}: openvla convert-checkpoint writes it, "
            "with the OFT parts as safetensors"
        )
    try:
        return TypeAdapter(OFTLayout).validate_json(json.dumps(read_json(path)), strict=True)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {'; '.join(validation_lines(error, 'layout'))}") from error
    except InvalidValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def write_layout(folder: Path, layout: OFTLayout) -> None:
    """Write ``layout`` as ``oft.json``."""
    (folder / LAYOUT).write_text(json.dumps(asdict(layout), indent=2) + "\n", encoding="utf-8")


def parts_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the tensors that OpenVLA-OFT adds to the network."""
    return {
        key: tuple(value.shape) for key, value in model.state_dict().items() if not key.startswith("network.")
    }


@torch.inference_mode(False)
def load_parts(network: OpenVLA, layout: OFTLayout, folder: Path) -> OpenVLAOFT:
    """Return ``network`` with the extra parts in ``folder``; raises ``CheckpointError``."""
    with torch.device("meta"):
        model = OpenVLAOFT(network, layout)
    stored = read_header(folder / PARTS)
    problems = compare_keys(parts_of(model), {key: tensor.shape for key, tensor in stored.items()})
    if problems:
        raise CheckpointError(f"{folder / PARTS} does not match {LAYOUT}: " + "; ".join(problems))
    verify_files([folder / PARTS])
    for key, tensor in stored.items():
        assign(model, key, read_tensor(tensor, key).to(network.device, network.dtype, copy=True))
    return model.eval()
