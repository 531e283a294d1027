"""Row-wise steps between the matrix products, as Triton kernels: RMS norm, SwiGLU gate, 8-bit rounding."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from openvla_ros.model.kernels.packed_weights import FLOAT8, FLOAT8_MAX

_ELEMENTS = 1024  # that one program of an element-wise kernel takes
_WARPS = 8  # of a program that takes a whole row


def norm_rows(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return ``x`` (N, W) divided by the root of its mean square, times ``weight`` (W,)."""
    x, out = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    width = x.shape[1]
    _norm_rows[(len(x),)](
        x, weight, out, eps, WIDTH=width, BLOCK=triton.next_power_of_2(width), num_warps=_WARPS
    )
    return out


def gate_rows(gate_up: Tensor) -> Tensor:
    """Return silu(gate) · up (N, I) for both side by side (N, 2 I)."""
    rows, width = len(gate_up), gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, width)
    _gate_rows[(rows, triton.cdiv(width, _ELEMENTS))](gate_up, out, WIDTH=width, BLOCK=_ELEMENTS)
    return out


def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows (N, W) in 8-bit floats, and their scales (N, 1)."""
    x, width = x.contiguous(), x.shape[1]
    rounded = torch.empty(x.shape, dtype=FLOAT8, device=x.device)
    scale = torch.empty(len(x), 1, dtype=torch.float32, device=x.device)
    _round_rows[(len(x),)](
        x, rounded, scale, FLOAT8_MAX, WIDTH=width, BLOCK=triton.next_power_of_2(width), num_warps=_WARPS
    )
    return rounded, scale


@triton.jit
def _whole_row(x, row, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Return the column indices of a row, their mask and addresses, and the values in float32."""
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    place = row * WIDTH + column
    return column, inside, place, tl.load(x + place, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _norm_rows(x, weight, out, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """One row divided by the root of its mean square, times the weight."""
    column, inside, place, wide = _whole_row(x, tl.program_id(0), WIDTH, BLOCK)
    factor = tl.rsqrt(tl.sum(wide * wide, axis=0) / WIDTH + eps)
    scaled = wide * factor * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, scaled.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gate_rows(gate_up, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """silu(gate) · up for one block of one row."""
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    gate = tl.load(gate_up + row * (2 * WIDTH) + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * (2 * WIDTH) + WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    gated = gate * tl.sigmoid(gate) * up
    tl.store(out + row * WIDTH + column, gated.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _round_rows(x, out, scale, largest, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """One row in 8-bit floats, and its scale."""
    row = tl.program_id(0)
    _, inside, place, wide = _whole_row(x, row, WIDTH, BLOCK)
    highest = tl.max(tl.abs(wide), axis=0)
    factor = tl.where(highest > 0.0, highest / largest, 1.0)
    tl.store(scale + row, factor)
    tl.store(out + place, (wide / factor).to(out.dtype.element_ty), mask=inside)
