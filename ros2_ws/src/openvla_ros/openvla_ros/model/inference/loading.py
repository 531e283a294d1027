"""Loads the predictor for a checkpoint's kind."""

from __future__ import annotations

from pathlib import Path

from openvla_ros.errors import CheckpointError
from openvla_ros.model.checkpoints.safetensors import resolve
from openvla_ros.model.inference.inspection import kind_of
from openvla_ros.model.inference.oft_predictor import load_oft
from openvla_ros.model.inference.options import DEFAULTS, LoadOptions
from openvla_ros.model.inference.predictor import ActionPredictor, load_predictor


def load_action_predictor(source: str | Path, options: LoadOptions = DEFAULTS) -> ActionPredictor:
    """Return a local folder or hub id ready to predict actions.

    Raises ``CheckpointError`` for a kind that outputs no actions, and if it is damaged or incomplete.
    """
    folder = resolve(source, offline=options.offline)
    match kind := kind_of(folder):
        case "openvla":
            return load_predictor(folder, options)
        case "openvla-oft" if options.adapter is None and not options.only_action_tokens:
            return load_oft(folder, options)
        case "openvla-oft":
            raise CheckpointError(
                f"{folder} is an OpenVLA-OFT checkpoint, without support for adapters or an action-token mask"
            )
        case "lora-adapter":
            raise CheckpointError(
                f"{folder} is a LoRA adapter; give its base as the checkpoint, and this folder as the adapter"
            )
        case "prismatic":
            raise CheckpointError(
                f"{folder} is a vision-language model without actions; use it with openvla ask"
            )
        case "prismatic-native":
            raise CheckpointError(f"{folder} is a {kind} checkpoint; openvla convert-checkpoint converts it")
