"""The language model with a fixed-size cache: a lean version of transformers' Llama.

The same arithmetic, but keys and values go into preallocated memory, matrices with the same input are
multiplied in one call, and the output head is computed for the last rows only. Positions are plain integers:
a pass may start anywhere in the cache, which is how a rejected draft is discarded. Nothing here synchronises
with the device or depends on values, so a pass can be captured.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from openvla_ros.errors import InvalidValueError
from openvla_ros.model.kernels.cuda_graphs import Recent
from openvla_ros.model.kernels.linear_layers import LlamaMaps, adapted_maps, fused_maps, module_maps
from openvla_ros.model.kernels.torch_kernels import LayerCache, LlamaShape, Span, TorchKernels
from openvla_ros.model.network.lora_delta import ActiveAdapter
from openvla_ros.model.network.openvla import OpenVLA

# The cache grows to the next multiple, so that prompts of different lengths share it.
CACHE_STEP = 64
# How many adapters' stacked updates stay cached.
ADAPTERS = 2


class StaticLlama:
    """Runs ``model``'s language model on one sequence, with a KV cache."""

    def __init__(
        self,
        model: OpenVLA,
        kernels: TorchKernels | None = None,
        pack: Callable[[LlamaMaps], LlamaMaps] | None = None,
        *,
        fuse: bool = True,
    ) -> None:
        """Allocate nothing yet. ``pack`` replaces weights with faster packed ones.

        Without ``fuse`` the network's own modules are called, as for quantised layers.

        Raises ``InvalidValueError`` if ``pack`` is given for a model whose layers are already quantised.
        """
        self._model = model
        self.kernels = kernels or TorchKernels(LlamaShape.of(model.language_model.config))
        fused = fused_maps(model) if fuse else None
        if fused is None and pack is not None:
            raise InvalidValueError(
                "only a model with plain 16- or 32-bit weights can have packed weights in addition"
            )
        self._fused = fused if fused is None or pack is None else pack(fused)
        self._modules = module_maps(model)
        self._of_adapters = threading.Lock()  # groups of a batch ask for them on threads of their own
        self._adapted: Recent[ActiveAdapter, LlamaMaps] = Recent(self._with_adapter, kept=ADAPTERS)
        self._caches: tuple[LayerCache, ...] = ()
        self.capacity = 0

    @property
    def maps(self) -> LlamaMaps:
        """The linear maps currently in use."""
        if self._fused is None:
            return self._modules
        return self.maps_of(self._model.adapter)

    @property
    def is_plain(self) -> bool:
        """Whether the maps are matrices, which several adapters can share, and not modules."""
        return self._fused is not None

    def maps_of(self, adapter: ActiveAdapter | None) -> LlamaMaps:
        """Return the linear maps with ``adapter``, whichever is active.

        Raises ``InvalidValueError`` if they are modules, which apply the active one.
        """
        if self._fused is None:
            raise InvalidValueError("quantised modules apply the active adapter only")
        if adapter is None:
            return self._fused
        with self._of_adapters:
            return self._adapted[adapter]

    def keep_adapters(self, count: int) -> None:
        """Keep the stacked updates of ``count`` adapters, for a batch that uses them in turn."""
        with self._of_adapters:
            self._adapted.keep(count)

    def _with_adapter(self, adapter: ActiveAdapter) -> LlamaMaps:
        assert self._fused is not None
        return adapted_maps(self._fused, self._model, adapter)

    def reserve(self, length: int) -> None:
        """Allocate ``length`` tokens; if ``capacity`` changes, the cache has moved and is empty.

        Raises ``InvalidValueError`` for more tokens than the model has positions.
        """
        if length <= self.capacity:
            return
        model, shape = self._model, self.kernels.shape
        limit = model.language_model.config.max_position_embeddings
        if length > limit:
            raise InvalidValueError(f"the sequence has {length} tokens; the model takes at most {limit}")
        self.capacity = -(-length // CACHE_STEP) * CACHE_STEP
        sizes = (shape.groups, self.capacity, shape.head_width)
        layers = len(model.language_model.model.layers)
        keys, values = (
            torch.zeros((layers, *sizes), dtype=model.dtype, device=model.device) for _ in range(2)
        )
        self._caches = tuple(LayerCache(*pair) for pair in zip(keys, values, strict=True))
        positions = torch.arange(self.capacity, device=model.device)
        self._cos, self._sin = (
            table[0] for table in model.language_model.model.rotary_emb(keys, positions[None])
        )
        self._causal = positions[None] <= positions[:, None]

    def logits(self, embeddings: Tensor, start: int, rows: int) -> Tensor:
        """Return the logits (rows, vocabulary) of the last ``rows`` of ``embeddings`` (N, H).

        The N tokens are at positions ``start`` .. ``start + N - 1``; the cache must contain everything before
        them, and is overwritten from ``start`` on.
        """
        return self.kernels.project(self.hidden(embeddings, start, rows), self.maps.head)

    def hidden(self, embeddings: Tensor, start: int, rows: int, *, one_way: bool = True) -> Tensor:
        """Return the final-norm hidden states (rows, H) of the last ``rows`` of ``embeddings`` (N, H).

        ``one_way``: causal attention; otherwise every token attends to all others.
        """
        kernels, maps = self.kernels, self.maps
        span = self._span(start, len(embeddings), one_way)
        last = len(maps.layers) - 1
        x = embeddings.clone()
        for index, (layer, cache) in enumerate(zip(maps.layers, self._caches, strict=True)):
            asked = rows if index == last else span.count
            qkv = kernels.norm_project(x, layer.input_norm, layer.qkv)
            attended = kernels.attend(qkv, cache, span, asked)
            x = kernels.project_add(x[span.count - asked :], attended, layer.out)
            gated = kernels.norm_gate(x, layer.post_norm, layer.gate_up)
            x = kernels.project_add(x, gated, layer.down)
        return kernels.norm(x, maps.norm)

    def _span(self, start: int, count: int, one_way: bool) -> Span:
        end = start + count
        if end > self.capacity:
            raise InvalidValueError(f"the pass ends at position {end}; the cache holds {self.capacity}")
        here = slice(start, end)
        return Span(start, count, self._cos[here], self._sin[here], self._causal[here, :end], one_way)
