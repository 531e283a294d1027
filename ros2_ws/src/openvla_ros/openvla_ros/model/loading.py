"""Loads the predictor that fits a checkpoint's kind, in one visible place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from openvla_ros.errors import CheckpointError
from openvla_ros.model.checkpoint import resolve
from openvla_ros.model.inspection import kind_of
from openvla_ros.model.oft_predictor import load_oft
from openvla_ros.model.predictor import ActionPredictor, DecoderName, load_predictor
from openvla_ros.model.quantization import Quantization
from openvla_ros.prompt import PromptStyle
from openvla_ros.statistics import DatasetStatistics


def load_action_predictor(
    source: str | Path,
    *,
    adapter: str | Path | None = None,
    unnorm_key: str | None = None,
    center_crop: bool = False,
    prompt_style: PromptStyle | None = None,
    only_action_tokens: bool = False,
    statistics: Mapping[str, DatasetStatistics] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    quantization: Quantization | None = None,
    decoder: DecoderName = "fast",
    offline: bool = False,
    progress: bool | None = None,
) -> ActionPredictor:
    """Return a local folder or hub id ready to predict actions.

    Raises ``CheckpointError`` for a kind that does not act, and for whatever is wrong with it.
    """
    folder = resolve(source, offline=offline)
    match kind := kind_of(folder):
        case "openvla":
            return load_predictor(
                folder,
                adapter=adapter,
                unnorm_key=unnorm_key,
                center_crop=center_crop,
                prompt_style=prompt_style,
                only_action_tokens=only_action_tokens,
                statistics=statistics,
                dtype=dtype,
                device=device,
                quantization=quantization,
                decoder=decoder,
                offline=offline,
                progress=progress,
            )
        case "openvla-oft" if adapter is None and not only_action_tokens:
            return load_oft(
                folder,
                unnorm_key=unnorm_key,
                center_crop=center_crop,
                prompt_style=prompt_style,
                statistics=statistics,
                dtype=dtype,
                device=device,
                quantization=quantization,
                offline=offline,
                progress=progress,
            )
        case "openvla-oft":
            raise CheckpointError(
                f"{folder} is an OpenVLA-OFT checkpoint: it takes no adapter and no mask of action tokens"
            )
        case "lora-adapter":
            raise CheckpointError(
                f"{folder} is a LoRA adapter; give its base checkpoint and the adapter beside it"
            )
        case "prismatic":
            raise CheckpointError(
                f"{folder} is a vision-language model without actions; openvla ask talks to it"
            )
        case "prismatic-native":
            raise CheckpointError(f"{folder} is of the kind {kind}; openvla convert-checkpoint rewrites it")
