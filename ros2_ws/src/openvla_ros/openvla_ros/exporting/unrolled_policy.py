"""What the graph ``policy`` computes, as a torch program that leapp can trace.

leapp learns names, types and shapes from it, and compares its numbers with the graph's. It is independent of
``unrolled_graph``: its cache grows, and the network's own modules are called.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from openvla_ros.exporting.policy_source import PolicySource
from openvla_ros.exporting.unrolled_graph import action_table
from openvla_ros.model.kernels.torch_kernels import LlamaShape
from openvla_ros.model.network.tokenizer import BOS_ID, EOS_ID
from openvla_ros.preprocessing.dataset_statistics import FieldStatistics


class UnrolledPolicy(nn.Module):
    """The program of one policy for the statistics of one dataset."""

    def __init__(self, source: PolicySource, statistics: FieldStatistics, prompt_tokens: int) -> None:
        """Prepare the tables; the vision towers take equally resized images."""
        super().__init__()
        network, transform = source.predictor.model.network, source.files.transform
        config = network.config
        self.network = network
        self.patches, self.prompt_tokens = config.patches, prompt_tokens
        self.space_id = source.files.tokenizer.space_id
        self.width = statistics.width
        self.shape = LlamaShape.of(network.language_model.config)
        rows = config.patches + prompt_tokens
        positions = torch.arange(rows + statistics.width)
        cos, sin = network.language_model.model.rotary_emb(torch.zeros(1), positions[None])
        self.cos, self.sin = cos[0].detach().float(), sin[0].detach().float()
        self.columns = positions[:rows]
        self.causal = self.columns[None] <= self.columns[:, None]
        self.mean, self.std = (
            torch.tensor([getattr(tower, name) for tower in transform.towers]).reshape(1, -1, 1, 1)
            for name in ("mean", "std")
        )
        table, self.last_id = action_table(source, statistics)
        self.actions = torch.from_numpy(table.astype(np.float32))

    def forward(self, image: Tensor, token_ids: Tensor, prompt_length: Tensor) -> tuple[Tensor, Tensor]:
        """Return the action (D,) float32 and its token ids (D,).

        ``image`` (1, H, W, 3) uint8 RGB is what the image transform resizes to; ``token_ids`` (1, T) are
        the prompt and padding after it, ``prompt_length`` (1,) says how many are the prompt.
        """
        model: Any = self.network.language_model.model
        text = model.embed_tokens(token_ids)
        embedded = self.network.projector(self.network.vision_backbone(self._pixels(image)))
        x = torch.cat([text[:, :1], embedded, text[:, 1:]], dim=1)
        rows = x.shape[1]
        end = prompt_length + self.patches
        caches: list[tuple[Tensor, Tensor]] = []
        for layer in model.layers:
            x, cache = self._layer(layer, x, self.cos[:rows], self.sin[:rows], self.causal, None)
            caches.append(cache)
        logits = self._logits(x.index_select(1, end - 1))
        found, chosen = [logits], [logits.argmax(dim=-1)]
        allowed = (self.columns < end)[None]
        for step in range(self.width - 1):
            x = model.embed_tokens(chosen[-1][None])
            cos, sin = (table.index_select(0, end + step) for table in (self.cos, self.sin))
            allowed = torch.cat([allowed, torch.ones(1, 1, dtype=torch.bool)], dim=1)
            for index, layer in enumerate(model.layers):
                x, caches[index] = self._layer(layer, x, cos, sin, allowed, caches[index])
            logits = self._logits(x)
            found.append(logits)
            chosen.append(logits.argmax(dim=-1))
        tokens = torch.cat(chosen)
        return self._action(tokens, torch.cat(found), token_ids, prompt_length), tokens

    def _pixels(self, image: Tensor) -> Tensor:
        levels = image.permute(0, 3, 1, 2).float() / 255.0
        towers = self.mean.shape[1] // 3
        return (torch.cat([levels] * towers, dim=1) - self.mean) / self.std

    def _logits(self, x: Tensor) -> Tensor:
        """Return the logits (1, vocabulary) of one row (1, 1, H)."""
        language: Any = self.network.language_model
        logits: Tensor = language.lm_head(language.model.norm(x))[0]
        return logits

    def _layer(
        self, layer: Any, x: Tensor, cos: Tensor, sin: Tensor, allowed: Tensor, past: Any
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the layer's rows (1, N, H), and its keys and values with theirs appended."""
        normed, shape = layer.input_layernorm(x), self.shape
        query = _rotate(_heads(layer.self_attn.q_proj(normed), shape.heads), cos, sin)
        key = _rotate(_heads(layer.self_attn.k_proj(normed), shape.groups), cos, sin)
        value = _heads(layer.self_attn.v_proj(normed), shape.groups)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        cache, shared = (key, value), shape.heads // shape.groups
        if shared > 1:
            key, value = (part.repeat_interleave(shared, dim=1) for part in cache)
        scores = torch.matmul(query, key.transpose(2, 3)) * shape.head_width**-0.5
        scores = torch.where(allowed, scores, torch.full((), torch.finfo(torch.float32).min))
        mixed = torch.matmul(scores.softmax(dim=-1), value).transpose(1, 2)
        x = x + layer.self_attn.o_proj(mixed.reshape(1, x.shape[1], shape.heads * shape.head_width))
        normed = layer.post_attention_layernorm(x)
        gated = functional.silu(layer.mlp.gate_proj(normed)) * layer.mlp.up_proj(normed)
        return x + layer.mlp.down_proj(gated), cache

    def _action(self, tokens: Tensor, logits: Tensor, token_ids: Tensor, prompt_length: Tensor) -> Tensor:
        index = (self.last_id - tokens).clamp(0, self.actions.shape[1] - 1)
        action = self.actions.gather(1, index[:, None])[:, 0]
        last = token_ids[0].index_select(0, (prompt_length - 1).clamp(0, self.prompt_tokens - 1))
        valid = (token_ids[0, :1] == BOS_ID) & (last == self.space_id)
        valid = valid & (prompt_length > 1) & (prompt_length <= self.prompt_tokens)
        valid = valid & (logits.abs() <= torch.finfo(torch.float32).max).all()  # false for NaN too
        valid = valid & ((tokens[:-1] == EOS_ID).sum() == 0)
        return torch.where(valid, action, torch.full((), torch.nan))


def _heads(flat: Tensor, heads: int) -> Tensor:
    """Return (1, heads, N, head width) of (1, N, heads · head width)."""
    return flat.reshape(1, flat.shape[1], heads, flat.shape[2] // heads).transpose(1, 2)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[3] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=3) * sin
