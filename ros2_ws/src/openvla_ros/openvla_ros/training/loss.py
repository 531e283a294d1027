"""The training forward pass: cross entropy of every labelled token, computing only what labels need.

The output head and the last decoder layer's queries and MLP run at the labelled positions only; the result
equals the full computation, since a position without a label never affects the loss. Padding is on the
right, where causal attention never sees it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, apply_rotary_pos_emb

from openvla_ros.errors import InvalidValueError
from openvla_ros.model.network.openvla import OpenVLA
from openvla_ros.preprocessing.action_tokens import IGNORED


@dataclass(frozen=True, eq=False)
class TokenLosses:
    """The loss and metrics of each of a batch's M labelled tokens, sample by sample."""

    cross_entropy: Tensor  # (M,) nats, with gradient
    predicted: Tensor  # (M,) the likeliest id
    target: Tensor  # (M,) the right id
    is_action: Tensor  # (M,) bool: of an action example, its end of sequence included


class LossNetwork(nn.Module):
    """A network whose ``forward`` is its loss, as the distributed wrappers need it."""

    def __init__(self, network: OpenVLA) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, pixels: Tensor, token_ids: Tensor, labels: Tensor, is_action: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the four tensors of ``TokenLosses`` for the parts of a ``Batch``.

        Raises ``InvalidValueError`` if all labels are ignored.
        """
        network = self.network
        wanted = labels[:, 1:] != IGNORED
        targets = labels[:, 1:][wanted]
        if not len(targets):
            raise InvalidValueError("all labels of this batch are ignored")
        # The state before text token k >= 1 stands at patches + k - 1.
        states = labelled_states(network, network.embed(pixels, token_ids), wanted)
        logits = network.language_model.lm_head(states).float()
        cross_entropy = functional.cross_entropy(logits, targets, reduction="none")
        of_action = is_action[:, None].expand_as(wanted)[wanted]
        return cross_entropy, logits.detach().argmax(dim=-1), targets, of_action


def labelled_states(network: OpenVLA, embeddings: Tensor, wanted: Tensor) -> Tensor:
    """Return the final-norm states (M, H) that predict the ``wanted`` text tokens (B, L-1).

    ``embeddings`` (B, patches + L, H) is the joined sequence.
    """
    model = network.language_model.model
    positions = torch.arange(embeddings.shape[1], device=embeddings.device)[None]
    angles = model.rotary_emb(embeddings, position_ids=positions)
    hidden = embeddings
    for layer in model.layers[:-1]:
        hidden = layer(
            hidden, attention_mask=None, position_ids=positions, position_embeddings=angles, use_cache=False
        )
    where, valid = _positions(wanted, network.config.patches)
    last = _last_layer(model.layers[-1], hidden, angles, where)
    states: Tensor = model.norm(last[valid])
    return states


def _positions(wanted: Tensor, patches: int) -> tuple[Tensor, Tensor]:
    """Return the sequence positions (B, Q) of the wanted states, and which of them are not padding (B, Q)."""
    counts = wanted.sum(dim=1)
    width = int(counts.max())
    order = torch.argsort(wanted.int(), dim=1, descending=True, stable=True)[:, :width]
    valid = torch.arange(width, device=wanted.device)[None] < counts[:, None]
    return order + patches, valid


def _last_layer(
    layer: LlamaDecoderLayer, hidden: Tensor, angles: tuple[Tensor, Tensor], where: Tensor
) -> Tensor:
    """Return the output (B, Q, H) of a decoder layer at the positions ``where`` (B, Q) alone."""
    attention = layer.self_attn
    batch, queries = where.shape
    rows = torch.arange(batch, device=where.device)[:, None]
    normed = layer.input_layernorm(hidden)
    residual = hidden[rows, where]

    def heads(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], -1, attention.head_dim).transpose(1, 2)

    cos, sin = angles
    key = heads(attention.k_proj(normed))
    _, key = apply_rotary_pos_emb(key, key, cos, sin)
    query = heads(attention.q_proj(normed[rows, where]))
    query, _ = apply_rotary_pos_emb(query, query, cos[0][where], sin[0][where])
    value = heads(attention.v_proj(normed))
    seen = torch.arange(hidden.shape[1], device=where.device) <= where[..., None]  # (B, Q, N)
    attended = functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=seen[:, None],
        scale=attention.scaling,
        enable_gqa=attention.num_key_value_groups > 1,
    )
    x = residual + attention.o_proj(attended.transpose(1, 2).reshape(batch, queries, -1))
    out: Tensor = x + layer.mlp(layer.post_attention_layernorm(x))
    return out
