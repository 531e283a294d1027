"""Trainable LoRA factors on a network's layers, with the fewest passes over the activations.

In float32 the layer multiplies by the merged weight ``W + s B A`` and its backward pass computes the
factors' gradients directly: one large product where peft does three, and no activation but the input is
kept. In lower precision, where a small update would be rounded away in the sum, the update is added
separately. Method: Hu et al., arXiv 2106.09685; file format: peft's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from openvla_ros.errors import InvalidValueError, TrainingError
from openvla_ros.integrity.disk import writing
from openvla_ros.model.checkpoints.adapter_config import ADAPTER_CONFIG
from openvla_ros.model.checkpoints.lora_adapters import ADAPTER_WEIGHTS

PREFIX = "base_model.model."  # peft's wrapping of every name


@dataclass(frozen=True)
class LowRankOptions:
    """The size of an adapter."""

    rank: int = 32
    alpha: float = 16.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0.0 or not 0.0 <= self.dropout < 1.0:
            raise InvalidValueError(
                f"LoRA rank {self.rank} must be at least 1, alpha {self.alpha} above 0, "
                f"dropout {self.dropout} within 0 .. 1"
            )

    @property
    def scale(self) -> float:
        """The factor of every update."""
        return self.alpha / self.rank


class _MergedLinear(torch.autograd.Function):
    """``x (W + s B A)ᵀ + b`` with gradients for x, A and B."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        """Return the output; keeps the input and the merged weight."""
        merged = torch.addmm(weight, up, down, alpha=scale)
        ctx.save_for_backward(x, merged, down, up)
        ctx.scale = scale
        return functional.linear(x, merged, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the input and of both factors."""
        x, merged, down, up = ctx.saved_tensors
        flat = gradients[0].reshape(-1, gradients[0].shape[-1])
        inputs = x.reshape(-1, x.shape[-1])
        grad_x = (flat @ merged).view_as(x) if ctx.needs_input_grad[0] else None
        grad_down = ctx.scale * ((flat @ up).t() @ inputs)
        grad_up = ctx.scale * (flat.t() @ (inputs @ down.t()))
        return grad_x, None, None, grad_down, grad_up, None


class _LowRank(nn.Module):
    """A frozen layer with an additional update."""

    base: nn.Linear | nn.Conv2d

    def __init__(self, base: nn.Linear | nn.Conv2d, options: LowRankOptions) -> None:
        super().__init__()
        self.base = base
        self.options = options

    @property
    def weight(self) -> Tensor:
        """The frozen weight, for code that reads its device."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias."""
        return self.base.bias


class LowRankLinear(_LowRank):
    """A frozen linear layer, plain or quantised, with a trainable low-rank update."""

    base: nn.Linear

    def __init__(self, base: nn.Linear, options: LowRankOptions, generator: torch.Generator) -> None:
        super().__init__(base, options)
        self.lora_A = nn.Parameter(_gaussian((options.rank, base.in_features), options.rank, generator))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, options.rank))

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted output."""
        plain = type(self.base) is nn.Linear and x.dtype == self.weight.dtype == torch.float32
        if plain and not torch.is_autocast_enabled(x.device.type) and not self.options.dropout:
            out: Tensor = _MergedLinear.apply(  # type: ignore[no-untyped-call]
                x, self.base.weight, self.base.bias, self.lora_A, self.lora_B, self.options.scale
            )
            return out
        dropped = functional.dropout(x, self.options.dropout, self.training)
        low = functional.linear(dropped.to(self.lora_A.dtype), self.lora_A)
        update = functional.linear(low, self.lora_B) * self.options.scale
        output: Tensor = self.base(x)
        return output + update.to(output.dtype)


class LowRankConv2d(_LowRank):
    """A frozen convolution with a trainable low-rank update; used for the patch embedding."""

    base: nn.Conv2d

    def __init__(self, base: nn.Conv2d, options: LowRankOptions, generator: torch.Generator) -> None:
        super().__init__(base, options)
        shape = (options.rank, base.in_channels, *base.kernel_size)
        self.lora_A = nn.Parameter(_gaussian(shape, options.rank, generator))
        self.lora_B = nn.Parameter(torch.zeros(base.out_channels, options.rank, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted output."""
        base = self.base
        if x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type):
            flat = self.lora_B[:, :, 0, 0] @ self.lora_A.flatten(1)
            merged = base.weight + self.options.scale * flat.view_as(base.weight)
            return functional.conv2d(x, merged, base.bias, base.stride, base.padding)
        low = functional.conv2d(x.to(self.lora_A.dtype), self.lora_A, None, base.stride, base.padding)
        update = functional.conv2d(low, self.lora_B) * self.options.scale
        output: Tensor = base(x)
        return output + update.to(output.dtype)


def _gaussian(shape: tuple[int, ...], rank: int, generator: torch.Generator) -> Tensor:
    """Return peft's ``init_lora_weights="gaussian"``: standard deviation 1 / rank."""
    return torch.randn(shape, generator=generator) / rank


def adaptable_modules(network: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Return every layer that can be adapted: linear ones, quantised or not, and the patch convolutions."""
    return {
        name: module for name, module in network.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))
    }


def select_targets(network: nn.Module, wanted: Sequence[str] | None) -> list[str]:
    """Return full names of the layers to adapt.

    ``None`` is the paper's choice, as in old peft's ``all-linear``: every linear layer, including the output
    head and the patch convolutions. A name is a module's full name or its last parts. Raises
    ``InvalidValueError`` for a name that matches nothing.
    """
    names = list(adaptable_modules(network))
    if wanted is None:
        return names
    for target in wanted:
        if not any(_named(name, target) for name in names):
            ends = sorted({name.rpartition(".")[2] for name in names})
            raise InvalidValueError(f"no layer is called {target!r}; the last parts are {', '.join(ends)}")
    return [name for name in names if any(_named(name, target) for target in wanted)]


def _named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def attach(network: nn.Module, targets: Sequence[str], options: LowRankOptions, seed: int) -> None:
    """Freeze ``network`` and add trainable factors to each of ``targets``; A is drawn from ``seed``."""
    network.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    modules = adaptable_modules(network)
    for name in targets:
        base = modules[name]
        adapted: nn.Module
        if isinstance(base, nn.Conv2d):
            adapted = LowRankConv2d(base, options, generator)
        else:
            adapted = LowRankLinear(base, options, generator)
        parent, _, child = name.rpartition(".")
        device = base.weight.device
        adapted.lora_A, adapted.lora_B = (_on(factor, device) for factor in (adapted.lora_A, adapted.lora_B))
        setattr(network.get_submodule(parent), child, adapted)


def _on(parameter: nn.Parameter, device: torch.device) -> nn.Parameter:
    return nn.Parameter(parameter.detach().to(device))


def adapted_modules(network: nn.Module) -> Iterator[tuple[str, LowRankLinear | LowRankConv2d]]:
    """Yield every adapted layer with its full name."""
    for name, module in network.named_modules():
        if isinstance(module, (LowRankLinear, LowRankConv2d)):
            yield name, module


def detach(network: nn.Module) -> None:
    """Remove the factors, which restores the base network."""
    for name, module in list(adapted_modules(network)):
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, module.base)


def factors(network: nn.Module, trained: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the factors under peft's names; ``trained`` replaces the values, by parameter name."""
    tensors = {}
    for name, module in adapted_modules(network):
        for factor in ("lora_A", "lora_B"):
            value = getattr(module, factor) if trained is None else trained[f"{name}.{factor}"]
            tensors[f"{PREFIX}{name}.{factor}.weight"] = value.detach().float().cpu().contiguous()
    return tensors


def adapter_config(targets: Sequence[str], options: LowRankOptions, base: str) -> dict[str, Any]:
    """Return ``adapter_config.json`` in peft's format."""
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": options.rank,
        "lora_alpha": options.alpha,
        "lora_dropout": options.dropout,
        "init_lora_weights": "gaussian",
        "target_modules": list(targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }


def write_adapter(
    folder: Path, tensors: Mapping[str, Tensor], targets: Sequence[str], options: LowRankOptions, base: str
) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``, each atomically.

    Raises ``TrainingError`` if the disk is full.
    """
    config = json.dumps(adapter_config(targets, options, base), indent=2) + "\n"
    unfinished = folder / f"{ADAPTER_CONFIG}.part"
    unfinished.write_text(config, encoding="utf-8")
    unfinished.replace(folder / ADAPTER_CONFIG)
    weights = folder / f"{ADAPTER_WEIGHTS}.part"
    with writing(folder / ADAPTER_WEIGHTS, TrainingError):
        save_file(dict(tensors), weights, metadata={"format": "pt"})
    weights.replace(folder / ADAPTER_WEIGHTS)
