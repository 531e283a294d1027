"""Options for loading and using a checkpoint, shared by all loaders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from openvla_ros.errors import InvalidValueError
from openvla_ros.model.network.bitsandbytes_layers import Quantization
from openvla_ros.preprocessing.dataset_statistics import DatasetStatistics
from openvla_ros.preprocessing.prompt import PromptStyle

DecoderName = Literal["fast", "steady", "plain"]
DECODERS: tuple[DecoderName, ...] = get_args(DecoderName)


@dataclass(frozen=True)
class LoadOptions:
    """The options for loading a checkpoint."""

    adapter: str | Path | None = None  # folder of a LoRA adapter, which may have its own statistics
    unnorm_key: str | None = None  # the dataset whose statistics to use, if there are several
    statistics: Mapping[str, DatasetStatistics] | None = None  # replace the checkpoint's and the adapter's
    center_crop: bool = False  # for checkpoints that were trained with random crops
    prompt_style: PromptStyle | None = None  # None: that of the checkpoint's language model
    only_action_tokens: bool = False  # prevents the model from ending early, see ``decode_greedily``
    decoder: DecoderName = "fast"
    dtype: torch.dtype = torch.bfloat16
    device: str | torch.device = "cpu"
    quantization: Quantization | None = None
    offline: bool = False  # never contact the hub
    progress: bool | None = None  # a bar while weights are read; None: on a terminal


DEFAULTS = LoadOptions()


def select_decoder(name: str) -> DecoderName:
    """Return ``name`` if it is a decoder, else raise ``InvalidValueError`` listing the choices."""
    for known in DECODERS:
        if name == known:
            return known
    raise InvalidValueError(f"decoder {name!r} is not one of {', '.join(DECODERS)}")
