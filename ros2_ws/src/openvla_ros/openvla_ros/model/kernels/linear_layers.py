"""The language model's matrices, arranged for a forward pass.

Matrices with the same input (query, key and value; gate and up) are stacked in memory and multiplied in one
call: the network's own parameters become views of that memory, so nothing is stored twice. An adapter's
updates are stacked in the same way, and stay separate from the weights. Where a module is not a plain
matrix, because it is quantised or being trained, the module itself is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from openvla_ros.model.network.lora_delta import ActiveAdapter, LowRankUpdate
from openvla_ros.model.network.openvla import OpenVLA


class Projection(Protocol):
    """A linear map of token rows."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return (N, out) for (N, in)."""
        ...

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return ``residual`` (N, out) plus the map of ``x`` (N, in); ``residual`` may be overwritten."""
        ...


@dataclass(frozen=True, eq=False)
class Dense:
    """One matrix."""

    weight: Tensor  # (out, in)

    def __call__(self, x: Tensor) -> Tensor:
        """Return (N, out) for (N, in)."""
        return functional.linear(x, self.weight)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return ``residual`` plus the map of ``x``, in the memory of ``residual``."""
        return residual.addmm_(x, self.weight.t())


@dataclass(frozen=True, eq=False)
class ThroughModules:
    """Calls the network's modules, with all their hooks, and concatenates their outputs."""

    modules: tuple[nn.Module, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Return (N, out) for (N, in)."""
        outputs = [module(x) for module in self.modules]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return ``residual`` plus the map of ``x``."""
        return residual + self(x)


@dataclass(frozen=True, eq=False)
class Adapted:
    """A projection plus a LoRA update: ``base(x) + up(down(x))``."""

    base: Projection
    down: Dense  # (ranks, in)
    up: Tensor  # (out, ranks), times the scales

    def __call__(self, x: Tensor) -> Tensor:
        """Return (N, out) for (N, in)."""
        return self.update(self.base(x), self.down(x))

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return ``residual`` plus the map of ``x``; ``residual`` may be overwritten."""
        return self.update(self.base.add_to(residual, x), self.down(x))

    def update(self, out: Tensor, low: Tensor) -> Tensor:
        """Return ``out`` (N, out), overwritten, plus the update from ``low`` (N, ranks)."""
        return out.addmm_(low, self.up.t())


@dataclass(frozen=True, eq=False)
class Scaled:
    """A projection whose outputs are scaled one by one, as DoRA does."""

    base: Projection
    gain: Tensor  # (out,)

    def __call__(self, x: Tensor) -> Tensor:
        """Return (N, out) for (N, in)."""
        return self.base(x) * self.gain

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return ``residual`` plus the map of ``x``."""
        return residual + self(x)


@dataclass(frozen=True, eq=False)
class LayerMaps:
    """The linear maps of one layer of the language model."""

    input_norm: Tensor  # (H,)
    qkv: Projection  # H → (heads + 2 groups) · head width
    out: Projection
    post_norm: Tensor  # (H,)
    gate_up: Projection  # H → 2 · inner width, the gate first
    down: Projection

    @property
    def projections(self) -> tuple[Projection, ...]:
        """The layer's projections, in the order of the forward pass."""
        return self.qkv, self.out, self.gate_up, self.down

    def with_projections(self, projections: Iterable[Projection]) -> LayerMaps:
        """Return the layer with its projections replaced by ``others``, in the same order."""
        qkv, out, gate_up, down = projections
        return replace(self, qkv=qkv, out=out, gate_up=gate_up, down=down)


@dataclass(frozen=True, eq=False)
class LlamaMaps:
    """The linear maps of the whole language model."""

    layers: tuple[LayerMaps, ...]
    norm: Tensor  # (H,)
    head: Projection


def module_maps(network: OpenVLA) -> LlamaMaps:
    """Return maps that call the network's modules: exact for modules of any kind."""
    model = network.language_model.model
    layers = []
    for layer in model.layers:
        qkv, out, gate_up, down = (ThroughModules(tuple(group)) for group in _groups(layer))
        norms = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        layers.append(LayerMaps(norms[0], qkv, out, norms[1], gate_up, down))
    return LlamaMaps(tuple(layers), model.norm.weight, ThroughModules((network.language_model.lm_head,)))


@torch.inference_mode(False)
@torch.no_grad()
def fused_maps(network: OpenVLA) -> LlamaMaps | None:
    """Return the maps on fused weights; ``None`` if a layer is not a plain matrix without a bias.

    The parameters of ``network`` become views of the fused weights. Safe to call again.
    """
    language = network.language_model
    groups = [group for layer in language.model.layers for group in _groups(layer)]
    if not all(_is_plain(module) for group in (*groups, [language.lm_head]) for module in group):
        return None
    layers = []
    for layer in language.model.layers:
        qkv, out, gate_up, down = (Dense(_fuse(group)) for group in _groups(layer))
        norms = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        layers.append(LayerMaps(norms[0].detach(), qkv, out, norms[1].detach(), gate_up, down))
        if network.device.type == "cuda":
            torch.cuda.empty_cache()  # the memory just freed does not fit the next layer's sizes
    head = Dense(language.lm_head.weight.detach())
    return LlamaMaps(tuple(layers), language.model.norm.weight.detach(), head)


def adapted_maps(maps: LlamaMaps, network: OpenVLA, adapter: ActiveAdapter) -> LlamaMaps:
    """Return ``maps``, those of ``network``, with the updates of ``adapter``."""
    names = {module: name for name, module in network.named_modules()}

    def adapted(projection: Projection, modules: Sequence[nn.Module]) -> Projection:
        return _adapted(projection, [names[module] for module in modules], modules, adapter.updates)

    layers = tuple(
        of_layer.with_projections(map(adapted, of_layer.projections, _groups(layer)))
        for layer, of_layer in zip(network.language_model.model.layers, maps.layers, strict=True)
    )
    return LlamaMaps(layers, maps.norm, adapted(maps.head, [network.language_model.lm_head]))


def _adapted(
    base: Projection, names: Sequence[str], modules: Sequence[Any], updates: Mapping[str, LowRankUpdate]
) -> Projection:
    """Return ``base`` with its modules' updates stacked: ``down`` by rank, ``up`` block-diagonal."""
    if not any(name in updates for name in names):
        return base
    downs, ups, gains = [], [], []
    for name, module in zip(names, modules, strict=True):
        update = updates.get(name)
        downs.append(module.weight.new_zeros(0, module.in_features) if update is None else update.down)
        ups.append(
            module.weight.new_zeros(module.out_features, 0) if update is None else update.up * update.scale
        )
        gain = None if update is None else update.gain
        gains.append(module.weight.new_ones(module.out_features) if gain is None else gain)
    up = torch.block_diag(*ups).detach()  # type: ignore[no-untyped-call]
    adapted = Adapted(base, Dense(torch.cat(downs).detach()), up)
    scaled = any(update is not None and update.gain is not None for update in map(updates.get, names))
    return Scaled(adapted, torch.cat(gains).detach()) if scaled else adapted


def _groups(layer: Any) -> tuple[list[nn.Module], ...]:
    """Return the modules of a layer that have the same input, in the order of ``LayerMaps``."""
    attention, mlp = layer.self_attn, layer.mlp
    qkv = [attention.q_proj, attention.k_proj, attention.v_proj]
    return qkv, [attention.o_proj], [mlp.gate_proj, mlp.up_proj], [mlp.down_proj]


def _is_plain(module: nn.Module) -> bool:
    return type(module) is nn.Linear and module.bias is None


def _fuse(modules: Sequence[Any]) -> Tensor:
    """Return the weights of ``modules`` as one matrix that shares their memory."""
    weights: list[Tensor] = [module.weight.detach() for module in modules]
    if len(weights) == 1:
        return weights[0]
    first = weights[0]
    rows, width = sum(len(weight) for weight in weights), first.shape[1]
    if _are_neighbours(weights):
        return first.as_strided((rows, width), (width, 1))
    fused = torch.cat(weights)
    parts = torch.split(fused, [len(weight) for weight in weights])
    for module, part in zip(modules, parts, strict=True):
        module.weight = nn.Parameter(part, requires_grad=module.weight.requires_grad)
    return fused


def _are_neighbours(weights: Sequence[Tensor]) -> bool:
    """Return whether the weights are contiguous in the same memory."""
    end = weights[0].storage_offset()
    for weight in weights:
        shared = weight.untyped_storage().data_ptr() == weights[0].untyped_storage().data_ptr()
        if not (shared and weight.is_contiguous() and weight.storage_offset() == end):
            return False
        end += weight.numel()
    return True
