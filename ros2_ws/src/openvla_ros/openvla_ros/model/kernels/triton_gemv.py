"""Matrix products for a few rows, as Triton kernels.

A pass over a few tokens is bound by memory bandwidth: each weight is read once, as a plain number, as
8 bits with a scale per row, or as 4 bits with a scale and an offset per group. The norm before the
product, and the gate or the residual after it, are fused. Summed in float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from openvla_ros.model.kernels.linear_layers import Adapted, Dense, Projection
from openvla_ros.model.kernels.packed_weights import SHORT, Float8, Grouped, RowScaled, ShortPacked

# Storage formats of the weights.
_PLAIN, _ROW_SCALED, _GROUPED = 0, 1, 2
_NARROW = 8192  # with fewer columns, smaller tiles keep all of the device busy


def multiply(
    x: Tensor,
    projection: Projection,
    eps: float,
    *,
    norm: Tensor | None = None,
    residual: Tensor | None = None,
    gated: bool = False,
) -> Tensor:
    """Return the projection (N, out) of rows ``x`` (N, in); with ``residual`` (N, out), the sum of both.

    ``norm`` (in,) is the weight of a norm before it. ``gated`` returns silu(gate) · up (N, out / 2) of a
    projection that has the gate first. Takes what ``is_short`` allows, without an adapter.
    """
    weight, scale, form, group = _operands(projection)
    inside = x.shape[1]
    columns = len(weight) // 2 if gated else len(weight)
    out = torch.empty(len(x), columns, dtype=x.dtype, device=x.device)
    tile, depth, ahead = _tiles(columns, inside, gated, group, x.element_size())
    _multiply_short[(columns // tile,)](
        x.contiguous(), weight, scale, x if norm is None else norm,
        x if residual is None else residual.contiguous(), out, len(x), eps,
        K=inside, N=columns, FORM=form, GROUP=group, NORM=norm is not None, GATED=gated,
        RESIDUAL=residual is not None, BM=SHORT, BN=tile, BK=depth, AHEAD=ahead, num_warps=4,
    )  # fmt: skip
    return out


def is_short(x: Tensor, projection: Projection) -> bool:
    """Return whether ``multiply`` supports these rows and this projection, or its base."""
    match projection:
        case Adapted(base):
            return is_short(x, base)
        case Dense(weight):
            return len(x) <= SHORT and weight.shape[0] % 16 == 0
        case ShortPacked() | Float8():
            return len(x) <= SHORT
        case _:
            return False


def _operands(projection: Projection) -> tuple[Tensor, Tensor, int, int]:
    """Return the weight, its scales (or a stand-in), the form and the group of a short pass."""
    if isinstance(projection, Dense):
        return projection.weight, projection.weight, _PLAIN, 0
    assert isinstance(projection, (ShortPacked, Float8))
    match projection.packed:
        case RowScaled(values, scale):
            return values, scale, _ROW_SCALED, 0
        case Grouped(values, pairs, group):
            return values, pairs, _GROUPED, group


def _tiles(columns: int, inside: int, gated: bool, group: int, size: int) -> tuple[int, int, int]:
    """Return the columns per program, the weights of each column per step, and the pipeline stages.

    Enough loads are in flight to saturate the memory, and a program fits into the 100 KB of a multiprocessor
    on the smaller devices.
    """
    tile = 32 if columns % 32 == 0 and columns >= _NARROW and not gated else 16
    if group:
        return tile, 2 * group if inside % (2 * group) == 0 else group, 5
    depth = next(depth for depth in (256, 128, 64, 32, 16) if depth * size <= 512 and inside % depth == 0)
    return tile, depth, 4


@triton.jit(do_not_specialize=["rows"])
def _multiply_short(
    x, weight, scale, norm, residual, out, rows, eps,
    K: tl.constexpr, N: tl.constexpr, FORM: tl.constexpr, GROUP: tl.constexpr, NORM: tl.constexpr,
    GATED: tl.constexpr, RESIDUAL: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """BN columns of ``norm(x) @ weight.T`` for all rows, at most BM.

    GATED: the weight holds N rows of the gate and N rows of up; the result is silu(gate) · up.
    The norm's division is deferred to the end, where it is one factor per row.
    """
    row = tl.arange(0, BM)
    column = tl.program_id(0) * BN + tl.arange(0, BN)
    present = (row < rows)[:, None]
    total = tl.zeros((BM, BN), tl.float32)
    upper = tl.zeros((BM, BN), tl.float32)
    # In 4 bits a tile is half a group: its first or its second half.
    ROWS: tl.constexpr = 2 * N if GATED else N
    WIDE: tl.constexpr = GROUP // 2 if FORM == 2 else BK
    squares = tl.zeros((BM, WIDE), tl.float32)
    for start in tl.range(0, K, BK, num_stages=AHEAD):
        if FORM == 2:
            for part in tl.static_range(BK // GROUP):
                begin = start + part * GROUP
                inside = begin + tl.arange(0, WIDE)
                first = tl.load(x + row[:, None] * K + inside[None, :], mask=present, other=0.0)
                second = tl.load(x + row[:, None] * K + WIDE + inside[None, :], mask=present, other=0.0)
                if NORM:
                    wide = first.to(tl.float32)
                    squares += wide * wide
                    first = (wide * tl.load(norm + inside).to(tl.float32)[None, :]).to(first.dtype)
                    wide = second.to(tl.float32)
                    squares += wide * wide
                    second = (wide * tl.load(norm + WIDE + inside).to(tl.float32)[None, :]).to(second.dtype)
                sums = tl.sum(first.to(tl.float32) + second.to(tl.float32), axis=1)[:, None]
                total = _add_group(total, first, second, sums, weight, scale, column, begin, K, GROUP, ROWS)
                if GATED:
                    upper = _add_group(
                        upper, first, second, sums, weight, scale, N + column, begin, K, GROUP, ROWS
                    )
        else:
            inside = start + tl.arange(0, BK)
            tile = tl.load(x + row[:, None] * K + inside[None, :], mask=present, other=0.0)
            if NORM:
                wide = tile.to(tl.float32)
                squares += wide * wide
                tile = (wide * tl.load(norm + inside).to(tl.float32)[None, :]).to(tile.dtype)
            place = column[None, :] * K + inside[:, None]
            total = tl.dot(tile, _load_weights(weight + place, tile.dtype), total, input_precision="ieee")
            if GATED:
                above = _load_weights(weight + N * K + place, tile.dtype)
                upper = tl.dot(tile, above, upper, input_precision="ieee")
    if FORM == 1:
        total *= tl.load(scale + column)[None, :]
        if GATED:
            upper *= tl.load(scale + N + column)[None, :]
    if NORM:
        factor = tl.rsqrt(tl.sum(squares, axis=1) / K + eps)[:, None]
        total *= factor
        upper *= factor
    if GATED:
        total = total * tl.sigmoid(total) * upper
    place = row[:, None] * N + column[None, :]
    if RESIDUAL:
        total += tl.load(residual + place, mask=present, other=0.0).to(tl.float32)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=present)


@triton.jit
def _load_weights(place, kind: tl.constexpr):
    """Load a block of weights, converted to the type of the multiplication."""
    weights = tl.load(place)
    if weights.dtype == tl.int8:
        weights = weights.to(tl.float32)
    return weights.to(kind)


@triton.jit
def _add_group(
    total, first, second, sums, weight, scale, column, start,
    K: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """``total`` plus the product with one group of 4-bit weights; ``sums`` are those of the rows' inputs."""
    packed = start // 2 + tl.arange(0, GROUP // 2)
    both = tl.load(weight + column[None, :] * (K // 2) + packed[:, None])
    pair = tl.load(scale + (start // GROUP) * ROWS + column)
    # Two bfloat16 in one word: the scale in its lower half, the offset in its upper half.
    factor = (pair << 16).to(tl.float32, bitcast=True)[None, :]
    offset = ((pair >> 16) << 16).to(tl.float32, bitcast=True)[None, :]
    if first.dtype == tl.bfloat16:
        # The four bits become the last ones of 128.0, which spares the slow conversion of integers.
        low = ((both & 0xF).to(tl.int16) | 0x4300).to(tl.bfloat16, bitcast=True)
        high = ((both >> 4).to(tl.int16) | 0x4300).to(tl.bfloat16, bitcast=True)
        offset -= 128.0 * factor
    else:
        low = (both & 0xF).to(first.dtype)
        high = (both >> 4).to(first.dtype)
    part = tl.dot(first, low, input_precision="ieee")
    part = tl.dot(second, high, part, input_precision="ieee")
    return total + part * factor + sums * offset
