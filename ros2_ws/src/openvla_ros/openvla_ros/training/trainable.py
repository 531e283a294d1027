"""The parameters that each method trains: LoRA factors, or the parts of the network in the paper's table."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from openvla_ros.errors import InvalidValueError
from openvla_ros.model.network.openvla import OpenVLA
from openvla_ros.training.lora_layers import LowRankOptions, attach, select_targets
from openvla_ros.training.recipe import Recipe


def make_trainable(network: OpenVLA, recipe: Recipe) -> list[str]:
    """Make the parameters of ``recipe.method`` trainable; return the names of adapted layers, if any.

    The parts are those of Prismatic's training stages, as in the paper's table 1: "last layer" is the last
    decoder layer with the token embeddings and the output head; "sandwich" adds the vision towers and the
    projector; "frozen vision" is all but the towers. Trained parameters are float32.
    """
    match recipe.method:
        case "lora" | "qlora":
            targets = select_targets(network, recipe.targets)
            options = LowRankOptions(recipe.rank, recipe.scale_numerator, recipe.dropout)
            attach(network, targets, options, recipe.seed)
            return targets
        case "full":
            _train_only(network, [network])
        case "last-layer":
            _train_only(network, _last_layer(network))
        case "frozen-vision":
            _train_only(network, [network.projector, network.language_model])
        case "sandwich":
            _train_only(network, [network.vision_backbone, network.projector, *_last_layer(network)])
        case _:
            raise InvalidValueError(f"unknown method {recipe.method!r}")
    return []


def _last_layer(network: OpenVLA) -> list[nn.Module]:
    model = network.language_model.model
    return [model.embed_tokens, model.layers[-1], network.language_model.lm_head]


def _train_only(network: OpenVLA, parts: Iterable[nn.Module]) -> None:
    network.requires_grad_(False)
    for part in parts:
        part.requires_grad_(True)
        part.to(torch.float32)


def trained_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trained parameters by name."""
    return {name: value for name, value in network.named_parameters() if value.requires_grad}
