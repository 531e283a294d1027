"""The language model on several sequences at once, each of its own length: ``static_llama`` for a batch.

Sequences are filled up at their end to the longest. Causal attention never looks at what comes later, so the
filling changes nothing, and what a sequence really continues with overwrites it in the cache. Whether the
results equal those of one sequence is a matter of rounding alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from openvla_ros.errors import InvalidValueError
from openvla_ros.model.kernels.linear_layers import LlamaMaps
from openvla_ros.model.kernels.row_maps import row_maps
from openvla_ros.model.kernels.static_llama import StaticLlama
from openvla_ros.model.kernels.torch_kernels import LlamaShape, TorchKernels
from openvla_ros.model.network.lora_delta import ActiveAdapter
from openvla_ros.model.network.openvla import OpenVLA

# The cache grows to the next multiple, so that batches of different lengths share it.
CACHE_STEP = 64


class BatchedLlama:
    """Runs the language model of ``llama`` on batches, with a KV cache of its own."""

    def __init__(self, model: OpenVLA, llama: StaticLlama) -> None:
        """Allocate nothing yet."""
        self._model, self._llama = model, llama
        self._kernels = TorchKernels(LlamaShape.of(model.language_model.config))
        # Keys, then values (layers, sequences, 2 groups, capacity, head width).
        self._cache = torch.zeros(0, 0, 0, 0, 0)
        self._cos = self._sin = torch.zeros(0)  # (capacity, head width)
        self._end = 0  # positions of the batch that may be looked at

    def maps(self, adapters: Sequence[ActiveAdapter | None]) -> LlamaMaps:
        """Return the maps of a batch whose sequence i uses ``adapters[i]``; neighbours should be alike.

        Raises ``InvalidValueError`` for quantised modules, which apply one adapter at a time.
        """
        self._llama.keep_adapters(len(set(adapters)))
        found = [self._llama.maps_of(adapter) for adapter in adapters]
        return row_maps(self._llama.maps_of(None), found)

    def reserve(self, sequences: int, length: int) -> None:
        """Allocate the cache for a batch of ``sequences`` of at most ``length`` tokens; it is empty then.

        Raises ``InvalidValueError`` for more tokens than the model has positions.
        """
        limit = self._model.language_model.config.max_position_embeddings
        if length > limit:
            raise InvalidValueError(f"the sequence has {length} tokens; the model takes at most {limit}")
        rows, capacity = self._cache.shape[1], self._cache.shape[3]
        if rows >= sequences and capacity >= length:
            return
        model, shape = self._model, self._kernels.shape
        rows, capacity = max(rows, sequences), max(capacity, -(-length // CACHE_STEP) * CACHE_STEP)
        self._cache = torch.zeros(0, 0, 0, 0, 0)  # the old one and the new one need not fit together
        sizes = (len(model.language_model.model.layers), rows, 2 * shape.groups, capacity, shape.head_width)
        self._cache = torch.zeros(sizes, dtype=model.dtype, device=model.device)
        positions = torch.arange(capacity, device=model.device)
        rotary = model.language_model.model.rotary_emb
        self._cos, self._sin = (table[0] for table in rotary(self._cache, positions[None]))

    def begin(self, maps: LlamaMaps, embeddings: Tensor, asked: Tensor) -> Tensor:
        """Return the logits (R, A, vocabulary) at the positions ``asked`` (R, A) of R whole sequences.

        ``embeddings`` (R, N, H) start at position 0; what lies behind a sequence's end is ignored.
        """
        self._end = embeddings.shape[1]
        return self._logits(maps, embeddings, None, asked)

    def go_on(self, maps: LlamaMaps, embeddings: Tensor, starts: Tensor, rows: Tensor) -> Tensor:
        """Return the logits (R, N, vocabulary) of N more tokens each (R, N, H), from ``starts`` (R,) on.

        ``rows`` (R,) are the sequences of the batch that go on; ``maps`` are those of these sequences.
        The cache must hold everything before them, and is overwritten from there on. No sequence may become
        longer than the batch that ``begin`` was given.
        """
        return self._logits(maps, embeddings, (starts, rows), None)

    def _logits(
        self,
        maps: LlamaMaps,
        embeddings: Tensor,
        later: tuple[Tensor, Tensor] | None,
        asked: Tensor | None,
    ) -> Tensor:
        """``later`` are the first position of each sequence and its row in the cache, if it has begun."""
        kernels, (rows, count, width) = self._kernels, embeddings.shape
        steps = torch.arange(count, device=embeddings.device)
        places = steps[None] if later is None else later[0][:, None] + steps
        angles = self._cos[places][:, None], self._sin[places][:, None]
        cached = None if later is None else _Cached(later[1], places, self._mask(places))
        x = embeddings.reshape(rows * count, width).clone()
        last = len(maps.layers) - 1
        for index, layer in enumerate(maps.layers):
            qkv = kernels.norm_project(x, layer.input_norm, layer.qkv).view(rows, count, -1)
            attended = self._attend(qkv, index, angles, cached)
            if index == last and asked is not None:
                attended = _rows_of(attended, asked)
                x = _rows_of(x.view(rows, count, width), asked).reshape(-1, width)
            x = kernels.project_add(x, attended.reshape(len(x), -1), layer.out)
            x = kernels.project_add(x, kernels.norm_gate(x, layer.post_norm, layer.gate_up), layer.down)
        logits = kernels.project(kernels.norm(x, maps.norm), maps.head)
        return logits.view(rows, -1, logits.shape[-1])

    def _mask(self, places: Tensor) -> Tensor:
        """Return which positions of the cache each row may look at (R, 1, N, positions)."""
        return (torch.arange(self._end, device=places.device) <= places[..., None])[:, None]

    def _attend(
        self, qkv: Tensor, layer: int, angles: tuple[Tensor, Tensor], cached: _Cached | None
    ) -> Tensor:
        """Return the attention output (R, N, heads · head width); keys and values go into the cache."""
        shape, (rows, count, _) = self._kernels.shape, qkv.shape
        parts = qkv.view(rows, count, shape.heads + 2 * shape.groups, shape.head_width).transpose(1, 2)
        turned = _rotate(parts[:, : -shape.groups], *angles)
        query, key = torch.split(turned, [shape.heads, shape.groups], dim=1)
        parts[:, shape.heads : -shape.groups] = key
        new, cache = parts[:, shape.heads :], self._cache[layer]
        if cached is None:
            cache[:rows, :, :count] = new
        else:
            new = cached.put(cache, new, self._end)
        key, value = torch.split(new, shape.groups, dim=1)
        attended = functional.scaled_dot_product_attention(
            query, key, value,
            attn_mask=None if cached is None else cached.mask,
            is_causal=cached is None,
            enable_gqa=shape.groups != shape.heads,
        )  # fmt: skip
        return attended.transpose(1, 2).reshape(rows, count, -1)


@dataclass(frozen=True, eq=False)
class _Cached:
    """Where a later pass stands in the cache."""

    rows: Tensor  # (R,) of the cache
    places: Tensor  # (R, N) of the tokens
    mask: Tensor  # (R, 1, N, positions) what each may look at

    def put(self, cache: Tensor, new: Tensor, end: int) -> Tensor:
        """Put ``new`` (R, 2 groups, N, head width) into ``cache``; return these rows up to ``end``."""
        cache[self.rows[:, None], :, self.places] = new.transpose(1, 2)
        return cache[:, :, :end].index_select(0, self.rows)


def _rows_of(x: Tensor, asked: Tensor) -> Tensor:
    """Return the rows (R, A, C) of ``x`` (R, N, C) at the positions ``asked`` (R, A)."""
    return x.gather(1, asked[..., None].expand(*asked.shape, x.shape[-1]))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return ``x`` (R, heads, N, head width) with the rotary embedding of its positions applied."""
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out
