"""The language model over a cache of fixed size: the same arithmetic as transformers' Llama, less ceremony.

Calls the very modules of ``LlamaForCausalLM`` (so adapters and integer weights act as they do
there) but writes keys and values into memory that is laid out once, and computes the output head
for the last rows only. Positions are plain integers: a pass may begin anywhere in the cache, which
is how a wrong draft is forgotten.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from openvla_ros.errors import InvalidValueError
from openvla_ros.model.openvla import OpenVLA

# The cache grows to the next multiple, so that prompts of different lengths share it.
CACHE_STEP = 64


class StaticLlama:
    """One sequence in flight through the language model of ``model``."""

    def __init__(self, model: OpenVLA) -> None:
        self._model = model
        text = model.language_model.config
        self._heads: int = text.num_attention_heads
        self._groups: int = text.num_key_value_heads
        self._head_width: int = getattr(text, "head_dim", None) or text.hidden_size // self._heads
        self._keys: list[Tensor] = []  # a layer each (1, groups, capacity, head width)
        self._values: list[Tensor] = []
        self.capacity = 0

    def reserve(self, length: int) -> None:
        """Make room for sequences of ``length`` tokens; what the cache held is lost if it must grow."""
        if length <= self.capacity:
            return
        limit = self._model.language_model.config.max_position_embeddings
        if length > limit:
            raise InvalidValueError(f"the sequence has {length} tokens; the model takes at most {limit}")
        self.capacity = -(-length // CACHE_STEP) * CACHE_STEP
        shape = (1, self._groups, self.capacity, self._head_width)
        layers = range(len(self._model.language_model.model.layers))
        model = self._model
        self._keys = [torch.empty(shape, dtype=model.dtype, device=model.device) for _ in layers]
        self._values = [torch.empty(shape, dtype=model.dtype, device=model.device) for _ in layers]

    def logits(self, embeddings: Tensor, start: int, rows: int) -> Tensor:
        """Return the logits (rows, vocabulary) of the last ``rows`` of ``embeddings`` (1, N, H).

        The N tokens stand at positions ``start`` .. ``start + N - 1``; the cache must hold all
        before them, and what it holds from ``start`` on is overwritten.
        """
        language = self._model.language_model
        count = embeddings.shape[1]
        position = torch.arange(start, start + count, device=embeddings.device)[None]
        rotary = language.model.rotary_emb(embeddings, position)
        mask = self._mask(start, count, embeddings)
        x = embeddings
        last = len(language.model.layers) - 1
        for index, layer in enumerate(language.model.layers):
            x = self._attend(index, layer, x, start, rotary, mask, rows if index == last else count)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        hidden = language.model.norm(x)
        logits: Tensor = language.lm_head(hidden[0])
        return logits

    def _attend(
        self,
        index: int,
        layer: Any,
        x: Tensor,
        start: int,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        rows: int,
    ) -> Tensor:
        """Return the last ``rows`` of ``x`` plus what they attend to; all rows go into the cache."""
        attention, count = layer.self_attn, x.shape[1]
        normed = layer.input_layernorm(x)
        query, key, value = (
            project(normed).view(1, count, heads, self._head_width).transpose(1, 2)
            for project, heads in (
                (attention.q_proj, self._heads),
                (attention.k_proj, self._groups),
                (attention.v_proj, self._groups),
            )
        )
        query, key = apply_rotary_pos_emb(query, key, *rotary)
        end = start + count
        keys, values = self._keys[index], self._values[index]
        keys[:, :, start:end], values[:, :, start:end] = key, value
        # Causal by the flag where all rows are asked for: the kernel then skips what a mask only hides.
        whole = rows == count and start == 0
        attended = functional.scaled_dot_product_attention(
            query[:, :, count - rows :],
            keys[:, :, :end],
            values[:, :, :end],
            attn_mask=None if whole or mask is None else mask[count - rows :],
            is_causal=whole and count > 1,
            enable_gqa=self._groups != self._heads,
        )
        merged = attended.transpose(1, 2).reshape(1, rows, -1)
        out: Tensor = x[:, count - rows :] + attention.o_proj(merged)
        return out

    def _mask(self, start: int, count: int, like: Tensor) -> Tensor | None:
        """Return which of the ``start + count`` positions each of ``count`` rows may look at."""
        if count == 1:
            return None
        columns = torch.arange(start + count, device=like.device)
        rows = torch.arange(start, start + count, device=like.device)
        return columns[None] <= rows[:, None]
