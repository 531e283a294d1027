"""The arithmetic of a Llama layer around its matrices, in plain torch.

This is the reference for, and the alternative to, the fused kernels in ``triton_kernels``: each method
is one step of a pass over the rows of one sequence. Formulas: Touvron et al.,
arXiv 2302.13971 (pre-norm, SwiGLU), Su et al., arXiv 2104.09864 (rotary positions).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from openvla_ros.model.kernels.linear_layers import Projection


@dataclass(frozen=True)
class LlamaShape:
    """The sizes that the kernels need."""

    width: int
    inner_width: int
    heads: int
    groups: int  # heads of keys and values
    head_width: int
    eps: float  # of the RMS norms

    @classmethod
    def of(cls, config: Any) -> LlamaShape:
        """Return the sizes in transformers' configuration of a Llama."""
        heads: int = config.num_attention_heads
        return cls(
            width=config.hidden_size,
            inner_width=config.intermediate_size,
            heads=heads,
            groups=config.num_key_value_heads,
            head_width=getattr(config, "head_dim", None) or config.hidden_size // heads,
            eps=config.rms_norm_eps,
        )


@dataclass(frozen=True, eq=False)
class LayerCache:
    """The keys and values of one layer."""

    keys: Tensor  # (groups, capacity, head width)
    values: Tensor


@dataclass(frozen=True, eq=False)
class Span:
    """The positions of a pass's rows in the sequence, with their rotary angles and mask."""

    start: int  # the position of the first row
    count: int  # rows
    cos: Tensor  # (count, head width)
    sin: Tensor
    causal: Tensor  # (count, start + count) bool: which positions a row may look at
    one_way: bool = True  # False: every row looks at all

    @property
    def end(self) -> int:
        """The position after the last row."""
        return self.start + self.count


class TorchKernels:
    """Every step with torch's own operations, on any device."""

    name = "torch"

    def __init__(self, shape: LlamaShape) -> None:
        self.shape = shape

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return ``x`` (N, H) divided by the root of its mean square, times ``weight`` (H,)."""
        return functional.rms_norm(x, weight.shape, weight, self.shape.eps)

    def norm_project(self, x: Tensor, weight: Tensor, projection: Projection) -> Tensor:
        """Return the projection (N, out) of the normed rows (N, H)."""
        return projection(self.norm(x, weight))

    def norm_gate(self, x: Tensor, weight: Tensor, projection: Projection) -> Tensor:
        """Return silu(gate) · up (N, I) of the normed rows (N, H)."""
        return self.gate(projection(self.norm(x, weight)))

    def project_add(self, residual: Tensor, x: Tensor, projection: Projection) -> Tensor:
        """Return ``residual`` (N, H) plus the projection of ``x``; ``residual`` may be overwritten."""
        return projection.add_to(residual, x)

    def project(self, x: Tensor, projection: Projection) -> Tensor:
        """Return the projection (N, out) of rows (N, in)."""
        return projection(x)

    def gate(self, gate_up: Tensor) -> Tensor:
        """Return silu(gate) · up (N, I) for both side by side (N, 2 I)."""
        gate, up = gate_up.chunk(2, dim=-1)
        return functional.silu(gate) * up

    def attend(self, qkv: Tensor, cache: LayerCache, span: Span, rows: int) -> Tensor:
        """Return the attention output (rows, heads · head width) of the last ``rows`` rows.

        ``qkv`` (N, (heads + 2 groups) · head width) is not rotated yet and may be overwritten. The
        keys and values of all N rows go into ``cache``, which holds those of all positions before.
        """
        query = self.store(qkv, cache, span)
        whole = rows == span.count and span.start == 0
        masked = span.one_way and not whole and span.count > 1
        attended = functional.scaled_dot_product_attention(
            query[None, :, span.count - rows :],
            cache.keys[None, :, : span.end],
            cache.values[None, :, : span.end],
            # With all rows, the causal flag is faster than a mask: the kernel skips the masked blocks.
            attn_mask=span.causal[span.count - rows :] if masked else None,
            is_causal=span.one_way and whole and span.count > 1,
            enable_gqa=self.shape.groups != self.shape.heads,
        )
        return attended[0].transpose(0, 1).reshape(rows, -1)

    def store(self, qkv: Tensor, cache: LayerCache, span: Span) -> Tensor:
        """Put the rows' keys and values into ``cache``; return their queries (heads, N, head width)."""
        heads, groups, width = self.shape.heads, self.shape.groups, self.shape.head_width
        parts = qkv.view(span.count, heads + 2 * groups, width).transpose(0, 1)
        query, key, value = torch.split(parts, [heads, groups, groups])
        cache.keys[:, span.start : span.end] = rotate(key, span)
        cache.values[:, span.start : span.end] = value
        return rotate(query, span)


def rotate(x: Tensor, span: Span) -> Tensor:
    """Return ``x`` (heads, N, head width) with the rotary embedding of its rows' positions applied."""
    first, second = x.chunk(2, dim=-1)
    return x * span.cos + torch.cat([-second, first], dim=-1) * span.sin
