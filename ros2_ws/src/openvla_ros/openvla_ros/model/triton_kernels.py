"""Fused kernels for CUDA devices: the steps of ``kernels`` with fewer trips to memory.

A pass over a few tokens waits for the weights; here it takes five launches a layer, each of which
reads every weight once at the pace of the memory: the norm, the gate and the residual are part of
the multiplications. A pass over the prompt is bound by arithmetic and leaves its multiplications to
the vendor's library; here are the steps between them. Products are summed in float32.

The sizes must be multiples of 16 and the head width a power of two; ``problems`` says what is not so.
"""

from __future__ import annotations

from subprocess import SubprocessError

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.errors import TritonError

from openvla_ros.model.kernels import LayerCache, LlamaShape, Span, TorchKernels
from openvla_ros.model.packed import FLOAT8, FLOAT8_MAX, SHORT, Float8, Grouped, RowScaled, ShortPacked
from openvla_ros.model.projections import Adapted, Dense, LayerMaps, Projection

# How the weights of a short pass are stored.
_PLAIN, _ROW_SCALED, _GROUPED = 0, 1, 2
_KEYS = 64  # cached positions that one step of the attention takes
_ELEMENTS = 1024  # that one program of an element-wise kernel takes
_NARROW = 8192  # with fewer columns, smaller tiles keep all of the device busy


# What compiling or running a kernel can raise: also where there is no C compiler for the launcher.
FAILURES = (TritonError, RuntimeError, OSError, SubprocessError)
CHECKED = 3 * SHORT  # positions that ``check`` needs
# How far a layer may be off the reference at load, relative: rounding in float32 and in 16 bits.
_EXACT, _ROUNDED = 1e-4, 3e-2


@triton.jit(do_not_specialize=["rows"])
def _multiply_short(
    x, weight, scale, norm, residual, out, rows, eps,
    K: tl.constexpr, N: tl.constexpr, FORM: tl.constexpr, GROUP: tl.constexpr, NORM: tl.constexpr,
    GATED: tl.constexpr, RESIDUAL: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """BN columns of ``norm(x) @ weight.T`` for all rows, at most BM.

    GATED: the weight holds N rows of the gate and N rows of up; the result is silu(gate) · up.
    The norm's division is put off to the end, where it is one factor a row.
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
    """Weights in the type that they are multiplied in."""
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


@triton.jit(do_not_specialize=["start", "rows", "capacity"])
def _attend_short(
    qkv, cos, sin, keys, values, out, start, rows, capacity, scaling,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr, BM: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """One head of a short pass: turn, store, attend to what is cached and to the rows themselves."""
    head = tl.program_id(0)
    group = head // (HEADS // GROUPS)
    HALF: tl.constexpr = WIDTH // 2
    row = tl.arange(0, BM)
    half = tl.arange(0, HALF)
    width = tl.arange(0, WIDTH)
    present = (row < rows)[:, None]
    stride = (HEADS + 2 * GROUPS) * WIDTH
    place = row[:, None] * stride + half[None, :]
    turn = row[:, None] * WIDTH + half[None, :]
    cosine = tl.load(cos + turn, mask=present, other=0.0).to(tl.float32)
    sine = tl.load(sin + turn, mask=present, other=0.0).to(tl.float32)
    q1 = tl.load(qkv + head * WIDTH + place, mask=present, other=0.0).to(tl.float32)
    q2 = tl.load(qkv + head * WIDTH + HALF + place, mask=present, other=0.0).to(tl.float32)
    beside = (HEADS + group) * WIDTH
    k1 = tl.load(qkv + beside + place, mask=present, other=0.0).to(tl.float32)
    k2 = tl.load(qkv + beside + HALF + place, mask=present, other=0.0).to(tl.float32)
    value_place = (HEADS + GROUPS + group) * WIDTH + row[:, None] * stride + width[None, :]
    fresh = tl.load(qkv + value_place, mask=present, other=0.0)
    kind = fresh.dtype
    query1 = (q1 * cosine - q2 * sine).to(kind)
    query2 = (q2 * cosine + q1 * sine).to(kind)
    key1 = (k1 * cosine - k2 * sine).to(kind)
    key2 = (k2 * cosine + k1 * sine).to(kind)
    cached = group * capacity * WIDTH
    if head % (HEADS // GROUPS) == 0:
        new = cached + (start + row)[:, None] * WIDTH
        tl.store(keys + new + half[None, :], key1, mask=present)
        tl.store(keys + new + HALF + half[None, :], key2, mask=present)
        tl.store(values + new + width[None, :], fresh, mask=present)
    # The rows themselves first: each sees at least itself, so that the maximum is finite.
    own = tl.dot(query1, tl.trans(key1), input_precision="ieee")
    own = tl.dot(query2, tl.trans(key2), own, input_precision="ieee") * scaling
    own = tl.where(row[None, :] <= row[:, None], own, float("-inf"))
    highest = tl.max(own, axis=1)
    own = tl.exp(own - highest[:, None])
    total = tl.sum(own, axis=1)
    mixed = tl.dot(own.to(kind), fresh, input_precision="ieee")
    for first in range(0, start, KEYS):
        position = first + tl.arange(0, KEYS)
        there = position < start
        across = cached + position[None, :] * WIDTH + half[:, None]
        old1 = tl.load(keys + across, mask=there[None, :], other=0.0)
        old2 = tl.load(keys + across + HALF, mask=there[None, :], other=0.0)
        score = tl.dot(query1, old1, input_precision="ieee")
        score = tl.dot(query2, old2, score, input_precision="ieee") * scaling
        score = tl.where(there[None, :], score, float("-inf"))
        higher = tl.maximum(highest, tl.max(score, axis=1))
        faded = tl.exp(highest - higher)
        share = tl.exp(score - higher[:, None])
        total = total * faded + tl.sum(share, axis=1)
        old = tl.load(
            values + cached + position[:, None] * WIDTH + width[None, :], mask=there[:, None], other=0.0
        )
        mixed = mixed * faded[:, None] + tl.dot(share.to(kind), old, input_precision="ieee")
        highest = higher
    result = row[:, None] * (HEADS * WIDTH) + head * WIDTH + width[None, :]
    tl.store(out + result, (mixed / total[:, None]).to(kind), mask=present)


@triton.jit
def _norm_rows(x, weight, out, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """One row divided by the root of its mean square, times the weight."""
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    wide = tl.load(x + row * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(wide * wide, axis=0) / WIDTH + eps)
    scaled = wide * factor * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + column, scaled.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["start", "capacity"])
def _turn_and_store(
    qkv, cos, sin, keys, values, start, capacity,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One head of one row: a query is turned where it lies, a key and its value go into the cache."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    HALF: tl.constexpr = WIDTH // 2
    half = tl.arange(0, HALF)
    width = tl.arange(0, WIDTH)
    place = qkv + (row * (HEADS + 2 * GROUPS) + head) * WIDTH
    cosine = tl.load(cos + row * WIDTH + half).to(tl.float32)
    sine = tl.load(sin + row * WIDTH + half).to(tl.float32)
    one = tl.load(place + half).to(tl.float32)
    other = tl.load(place + HALF + half).to(tl.float32)
    first = (one * cosine - other * sine).to(qkv.dtype.element_ty)
    second = (other * cosine + one * sine).to(qkv.dtype.element_ty)
    if head < HEADS:
        tl.store(place + half, first)
        tl.store(place + HALF + half, second)
    else:
        new = ((head - HEADS) * capacity + start + row) * WIDTH
        tl.store(keys + new + half, first)
        tl.store(keys + new + HALF + half, second)
        tl.store(values + new + width, tl.load(place + GROUPS * WIDTH + width))


@triton.jit
def _gate_rows(gate_up, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """silu(gate) · up of one stretch of one row."""
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
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    wide = tl.load(x + row * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    highest = tl.max(tl.abs(wide), axis=0)
    factor = tl.where(highest > 0.0, highest / largest, 1.0)
    tl.store(scale + row, factor)
    tl.store(out + row * WIDTH + column, (wide / factor).to(out.dtype.element_ty), mask=inside)


class TritonKernels(TorchKernels):
    """The steps of a pass as fused kernels."""

    name = "triton"

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return ``x`` (N, H) divided by the root of its mean square, times ``weight`` (H,)."""
        x, out = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
        width = x.shape[1]
        _norm_rows[(len(x),)](
            x, weight, out, self.shape.eps, WIDTH=width, BLOCK=triton.next_power_of_2(width), num_warps=8
        )
        return out

    def norm_project(self, x: Tensor, weight: Tensor, projection: Projection) -> Tensor:
        """Return the projection (N, out) of the normed rows (N, H)."""
        if not _is_short(x, projection):
            return self.project(self.norm(x, weight), projection)
        if isinstance(projection, Adapted):
            low = self.norm_project(x, weight, projection.down)
            return projection.update(self.norm_project(x, weight, projection.base), low)
        return self._multiply(x, projection, norm=weight)

    def norm_gate(self, x: Tensor, weight: Tensor, projection: Projection) -> Tensor:
        """Return silu(gate) · up (N, I) of the normed rows (N, H)."""
        if isinstance(projection, Adapted) or not _is_short(x, projection):
            return self.gate(self.norm_project(x, weight, projection))
        return self._multiply(x, projection, norm=weight, gated=True)

    def project_add(self, residual: Tensor, x: Tensor, projection: Projection) -> Tensor:
        """Return ``residual`` (N, H) plus the projection of ``x``; ``residual`` may be overwritten."""
        if isinstance(projection, Adapted):
            low = self.project(x, projection.down)
            return projection.update(self.project_add(residual, x, projection.base), low)
        if _is_short(x, projection):
            return self._multiply(x, projection, residual=residual)
        if isinstance(projection, Float8):
            return residual + self.project(x, projection)
        return projection.add_to(residual, x)

    def project(self, x: Tensor, projection: Projection) -> Tensor:
        """Return the projection (N, out) of rows (N, in)."""
        if isinstance(projection, Adapted):
            low = self.project(x, projection.down)
            return projection.update(self.project(x, projection.base), low)
        if _is_short(x, projection):
            return self._multiply(x, projection)
        if isinstance(projection, Float8):
            return projection.multiply(*self._rounded(x), x.dtype)
        return projection(x)

    def gate(self, gate_up: Tensor) -> Tensor:
        """Return silu(gate) · up (N, I) for both side by side (N, 2 I)."""
        rows, width = len(gate_up), gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, width)
        _gate_rows[(rows, triton.cdiv(width, _ELEMENTS))](gate_up, out, WIDTH=width, BLOCK=_ELEMENTS)
        return out

    def attend(self, qkv: Tensor, cache: LayerCache, span: Span, rows: int) -> Tensor:
        """Return what the last ``rows`` rows attend to, as ``TorchKernels.attend``."""
        if span.count > SHORT or not span.one_way:
            return super().attend(qkv, cache, span, rows)
        shape = self.shape
        out = qkv.new_empty(span.count, shape.heads * shape.head_width)
        _attend_short[(shape.heads,)](
            qkv, span.cos, span.sin, cache.keys, cache.values, out,
            span.start, span.count, cache.keys.shape[1], shape.head_width**-0.5,
            HEADS=shape.heads, GROUPS=shape.groups, WIDTH=shape.head_width, BM=SHORT, KEYS=_KEYS,
            num_warps=4, num_stages=2,
        )  # fmt: skip
        return out[span.count - rows :]

    def store(self, qkv: Tensor, cache: LayerCache, span: Span) -> Tensor:
        """Put the rows' keys and values into ``cache``; return their queries (heads, N, head width)."""
        shape = self.shape
        _turn_and_store[(span.count, shape.heads + shape.groups)](
            qkv, span.cos, span.sin, cache.keys, cache.values, span.start, cache.keys.shape[1],
            HEADS=shape.heads, GROUPS=shape.groups, WIDTH=shape.head_width, num_warps=1,
        )  # fmt: skip
        queries = qkv[:, : shape.heads * shape.head_width]
        return queries.view(span.count, shape.heads, shape.head_width).transpose(0, 1)

    def _rounded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows (N, W) in 8-bit floats, and their scales (N, 1)."""
        x, width = x.contiguous(), x.shape[1]
        rounded = torch.empty(x.shape, dtype=FLOAT8, device=x.device)
        scale = torch.empty(len(x), 1, dtype=torch.float32, device=x.device)
        _round_rows[(len(x),)](
            x, rounded, scale, FLOAT8_MAX, WIDTH=width, BLOCK=triton.next_power_of_2(width), num_warps=8
        )
        return rounded, scale

    def _multiply(
        self,
        x: Tensor,
        projection: Projection,
        *,
        norm: Tensor | None = None,
        residual: Tensor | None = None,
        gated: bool = False,
    ) -> Tensor:
        weight, scale, form, group = _operands(projection)
        inside = x.shape[1]
        columns = len(weight) // 2 if gated else len(weight)
        out = torch.empty(len(x), columns, dtype=x.dtype, device=x.device)
        tile, depth, ahead = _tiles(columns, inside, gated, group, x.element_size())
        _multiply_short[(columns // tile,)](
            x.contiguous(), weight, scale, x if norm is None else norm,
            x if residual is None else residual.contiguous(), out, len(x), self.shape.eps,
            K=inside, N=columns, FORM=form, GROUP=group, NORM=norm is not None, GATED=gated,
            RESIDUAL=residual is not None, BM=SHORT, BN=tile, BK=depth, AHEAD=ahead, num_warps=4,
        )  # fmt: skip
        return out


def _is_short(x: Tensor, projection: Projection) -> bool:
    """Tell whether ``_multiply`` takes these rows and this projection, or the base of it."""
    match projection:
        case Adapted(base):
            return _is_short(x, base)
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
    """Return the columns that a program takes, the weights of each at a time, and how many times ahead.

    Enough is on its way from memory to fill it, and a program fits the 100 KB that a multiprocessor of
    the smaller devices has.
    """
    tile = 32 if columns % 32 == 0 and columns >= _NARROW and not gated else 16
    if group:
        return tile, 2 * group if inside % (2 * group) == 0 else group, 5
    depth = next(depth for depth in (256, 128, 64, 32, 16) if depth * size <= 512 and inside % depth == 0)
    return tile, depth, 4


def problems(shape: LlamaShape, vocabulary: int) -> list[str]:
    """Return why the kernels cannot compute a model of these sizes; empty if they can."""
    sizes = {
        "hidden size": shape.width,
        "inner width": shape.inner_width,
        "query width": shape.heads * shape.head_width,
        "key width": shape.groups * shape.head_width,
        "vocabulary": vocabulary,
    }
    found = [f"{name} {size} is no multiple of 16" for name, size in sizes.items() if size % 16]
    if shape.head_width < 32 or shape.head_width & (shape.head_width - 1):
        found.append(f"head width {shape.head_width} is no power of two from 32")
    return found


def check(kernels: TritonKernels, layer: LayerMaps, positions: tuple[Tensor, Tensor]) -> None:
    """Raise ``RuntimeError`` unless one layer gives the reference's numbers, short and long passes.

    ``positions`` are tables of cosines and sines (positions, head width).
    """
    reference = TorchKernels(kernels.shape)
    weight = layer.input_norm
    for start, count in ((0, 2 * SHORT), (2 * SHORT, SHORT // 2), (2 * SHORT, 1)):
        end = start + count
        causal = torch.ones(count, end, dtype=torch.bool, device=weight.device).tril(start)
        span = Span(start, count, positions[0][start:end], positions[1][start:end], causal)
        x = torch.randn(count, kernels.shape.width, dtype=weight.dtype, device=weight.device)
        ours, theirs = (_layer(each, layer, x, span) for each in (kernels, reference))
        error = float((ours - theirs).float().norm() / theirs.float().norm())
        allowed = _EXACT if weight.dtype == torch.float32 else _ROUNDED
        if not error <= allowed:  # also where it is no number
            raise RuntimeError(f"a layer of {count} rows is off by {error:.3g} (allowed {allowed})")


def _layer(kernels: TorchKernels, layer: LayerMaps, x: Tensor, span: Span) -> Tensor:
    """Return what the layer adds to ``x``, on a cache of random keys and values."""
    shape = kernels.shape
    generator = torch.Generator(x.device).manual_seed(0)
    cache = LayerCache(
        *torch.randn(
            2, shape.groups, span.end, shape.head_width, dtype=x.dtype, device=x.device, generator=generator
        )
    )
    qkv = kernels.norm_project(x, layer.input_norm, layer.qkv)
    attended = kernels.attend(qkv, cache, span, span.count)
    middle = kernels.project_add(x.clone(), attended, layer.out)
    gated = kernels.norm_gate(middle, layer.post_norm, layer.gate_up)
    return kernels.project_add(middle.clone(), gated, layer.down) - x
