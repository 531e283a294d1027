"""The language model on several sequences at once, each of its own length: ``static_llama`` for a batch.

A sequence is a prompt and, behind it, a tail of tokens that may be replaced, as many for all. Sequences are
filled up at their end to the longest. Causal attention never looks at what comes later, so the filling
changes nothing. The tails' keys and values are kept once more, side by side behind the longest sequence:
a later pass writes them to one place and reads the prompts where they are. Whether the results equal those
of one sequence is a matter of rounding alone.
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
        self._batch: _Batch | None = None

    def maps(self, adapters: Sequence[ActiveAdapter | None]) -> LlamaMaps:
        """Return the maps of a batch whose sequence i uses ``adapters[i]``; neighbours should be alike.

        Raises ``InvalidValueError`` for quantised modules, which apply one adapter at a time.
        """
        self._llama.keep_adapters(len(set(adapters)))
        found = [self._llama.maps_of(adapter) for adapter in adapters]
        return row_maps(self._llama.maps_of(None), found)

    def begin(self, maps: LlamaMaps, embeddings: Tensor, lengths: Tensor, tail: int) -> Tensor:
        """Return the logits (R, 1 + ``tail``, vocabulary) after each prompt and each token of its tail.

        ``embeddings`` (R, N, H) are R sequences from position 0 on: prompts of ``lengths`` (R,) tokens, each
        with its tail directly behind it; what follows is ignored. The batch before is forgotten. Raises
        ``InvalidValueError`` for more tokens than the model has positions.
        """
        (rows, count, _), device = embeddings.shape, embeddings.device
        self._reserve(rows, count, tail)
        places = torch.arange(count, device=device)
        asked = lengths[:, None] - 1 + torch.arange(1 + tail, device=device)
        self._batch = _Batch(
            lengths, slice(count, count + tail), asked[:, 1:], (places < lengths[:, None])[:, None, None]
        )
        whole = _Pass(self._cos[:count], self._sin[:count])
        of_asked = self._cos[asked][:, None], self._sin[asked][:, None]
        last = _Last(*of_asked, asked, (places <= asked[..., None])[:, None])
        return self._logits(maps, embeddings, whole, last)

    def go_on(self, maps: LlamaMaps, embeddings: Tensor, first: int, rows: Tensor | None) -> Tensor:
        """Return the logits (R, T, vocabulary) after T other tokens (R, T, H) at the end of the tails.

        They replace the tails from place ``first`` on. ``rows`` (R,) are the sequences of the batch that go
        on, None for all of them; ``maps`` are those of these sequences.
        """
        batch = self._batch
        assert batch is not None  # begin comes first
        (count, steps, _), tail = embeddings.shape, batch.tail
        begun = slice(count) if rows is None else rows
        places = torch.arange(tail.stop - tail.start, device=embeddings.device)
        mask = torch.cat(
            [
                batch.prompts[begun].expand(-1, -1, steps, -1),
                (places <= places[first:, None]).expand(count, 1, -1, -1),
            ],
            dim=-1,
        )
        positions = batch.lengths[begun][:, None] + places[first:]
        angles = self._cos[positions][:, None], self._sin[positions][:, None]
        later = _Later(*angles, begun, slice(tail.start + first, tail.stop), mask)
        return self._logits(maps, embeddings, later, None)

    def _reserve(self, sequences: int, length: int, tail: int) -> None:
        limit = self._model.language_model.config.max_position_embeddings
        if length > limit:
            raise InvalidValueError(f"the sequence has {length} tokens; the model takes at most {limit}")
        rows, capacity = self._cache.shape[1], self._cache.shape[3]
        if rows >= sequences and capacity >= length + tail:
            return
        model, shape = self._model, self._kernels.shape
        rows, capacity = max(rows, sequences), max(capacity, -(-(length + tail) // CACHE_STEP) * CACHE_STEP)
        self._cache = torch.zeros(0, 0, 0, 0, 0)  # the old one and the new one need not fit together
        sizes = (len(model.language_model.model.layers), rows, 2 * shape.groups, capacity, shape.head_width)
        self._cache = torch.zeros(sizes, dtype=model.dtype, device=model.device)
        positions = torch.arange(capacity, device=model.device)
        rotary = model.language_model.model.rotary_emb
        self._cos, self._sin = (table[0] for table in rotary(self._cache, positions[None]))

    def _logits(
        self, maps: LlamaMaps, embeddings: Tensor, every: _Pass | _Later, last: _Last | None
    ) -> Tensor:
        """``every`` is how the layers attend, and ``last``, if given, how the last one does."""
        kernels, (rows, count, width) = self._kernels, embeddings.shape
        x = embeddings.reshape(rows * count, width).clone()
        end = len(maps.layers) - 1
        for index, (layer, cache) in enumerate(zip(maps.layers, self._cache, strict=True)):
            qkv = kernels.norm_project(x, layer.input_norm, layer.qkv).view(rows, count, -1)
            if last is None or index != end:
                attended = self._attend(qkv, cache, every)
            else:
                attended = self._attend_asked(qkv, cache, every, last)
                x = _rows_of(x.view(rows, count, width), last.asked).reshape(-1, width)
            x = kernels.project_add(x, attended.view(len(x), -1), layer.out)
            x = kernels.project_add(x, kernels.norm_gate(x, layer.post_norm, layer.gate_up), layer.down)
        logits = kernels.project(kernels.norm(x, maps.norm), maps.head)
        return logits.view(rows, -1, logits.shape[-1])

    def _attend(self, qkv: Tensor, cache: Tensor, how: _Pass | _Later) -> Tensor:
        """Return the attention output (R, N, heads · head width); keys and values go into ``cache``."""
        shape = self._kernels.shape
        parts = self._parts(qkv)
        turned = _rotate(parts[:, : -shape.groups], how)
        query, key = torch.split(turned, [shape.heads, shape.groups], dim=1)
        keys, values, mask = self._keep(key, parts[:, -shape.groups :], cache, how)
        return self._attention(query, keys, values, mask)

    def _attend_asked(self, qkv: Tensor, cache: Tensor, how: _Pass | _Later, last: _Last) -> Tensor:
        """Return the attention output (R, A, heads · head width) of the rows that are asked for."""
        shape = self._kernels.shape
        width = shape.heads * shape.head_width
        query = self._parts(_rows_of(qkv[..., :width], last.asked))
        key, value = self._parts(qkv[..., width:]).chunk(2, dim=1)
        keys, values, _ = self._keep(_rotate(key, how), value, cache, how)
        return self._attention(_rotate(query, last), keys, values, last.mask)

    def _parts(self, x: Tensor) -> Tensor:
        """Return (R, N, C) as heads (R, C / head width, N, head width)."""
        rows, count, _ = x.shape
        return x.view(rows, count, -1, self._kernels.shape.head_width).transpose(1, 2)

    def _keep(
        self, key: Tensor, value: Tensor, cache: Tensor, how: _Pass | _Later
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Put keys and values (R, groups, N, head width) into ``cache``; return all there are, and a mask."""
        batch, groups = self._batch, self._kernels.shape.groups
        assert batch is not None
        if isinstance(how, _Later):
            cache[how.rows, :groups, how.where] = key
            cache[how.rows, groups:, how.where] = value
            begun = cache[:, :, : batch.tail.stop]
            begun = begun[how.rows] if isinstance(how.rows, slice) else begun.index_select(0, how.rows)
            return begun[:, :groups], begun[:, groups:], how.mask
        mine = cache[: len(key)]
        whole = mine[:, :, : batch.tail.start]
        whole[:, :groups], whole[:, groups:] = key, value
        places = batch.tails[:, None, :, None].expand(-1, whole.shape[1], -1, whole.shape[3])
        mine[:, :, batch.tail] = whole.gather(2, places)
        return key, value, None

    def _attention(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Return the attention output (R, N, heads · head width); causal without a ``mask``."""
        shape = self._kernels.shape
        attended = functional.scaled_dot_product_attention(
            query, keys, values,
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=shape.groups != shape.heads,
        )  # fmt: skip
        return attended.transpose(1, 2).flatten(2)


@dataclass(frozen=True, eq=False)
class _Batch:
    """The sequences that have begun."""

    lengths: Tensor  # (R,) of the prompts
    tail: slice  # places in the cache where the tails are side by side
    tails: Tensor  # (R, T) positions of the tails
    prompts: Tensor  # (R, 1, 1, N) which places before ``tail`` hold the sequence's prompt


@dataclass(frozen=True, eq=False)
class _Pass:
    """A pass over whole sequences: the rotary angles of its positions."""

    cos: Tensor
    sin: Tensor


@dataclass(frozen=True, eq=False)
class _Last(_Pass):
    """The last layer of that pass, for some positions only."""

    asked: Tensor  # (R, A) positions
    mask: Tensor  # (R, 1, A, N) what each may look at


@dataclass(frozen=True, eq=False)
class _Later(_Pass):
    """A pass over the ends of the tails."""

    rows: slice | Tensor  # (R,) the sequences
    where: slice  # places in the cache
    mask: Tensor  # (R, 1, T, places) what each may look at


def _rows_of(x: Tensor, asked: Tensor) -> Tensor:
    """Return the rows (R, A, C) of ``x`` (R, N, C) at the positions ``asked`` (R, A)."""
    return x.gather(1, asked[..., None].expand(*asked.shape, x.shape[-1]))


def _rotate(x: Tensor, angles: _Pass) -> Tensor:
    """Return ``x`` (R, heads, N, head width) with the rotary embedding of its positions applied."""
    cos, sin, half = angles.cos, angles.sin, x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out
