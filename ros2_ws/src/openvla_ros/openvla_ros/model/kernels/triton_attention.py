"""Rotary embedding, KV cache update and attention for a few rows, as Triton kernels.

Formula of the running maximum: Dao et al., arXiv 2205.14135.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from openvla_ros.model.kernels.packed_weights import SHORT
from openvla_ros.model.kernels.torch_kernels import LayerCache, LlamaShape, Span

_KEYS = 64  # cached positions that one step of the attention takes


def attend_short(qkv: Tensor, cache: LayerCache, span: Span, shape: LlamaShape) -> Tensor:
    """Return the causal attention output (N, heads · head width) of at most ``SHORT`` rows.

    ``qkv`` and ``cache`` as in ``TorchKernels.attend``.
    """
    out = qkv.new_empty(span.count, shape.heads * shape.head_width)
    _attend_short[(shape.heads,)](
        qkv, span.cos, span.sin, cache.keys, cache.values, out,
        span.start, span.count, cache.keys.shape[1], shape.head_width**-0.5,
        HEADS=shape.heads, GROUPS=shape.groups, WIDTH=shape.head_width, BM=SHORT, KEYS=_KEYS,
        num_warps=4, num_stages=2,
    )  # fmt: skip
    return out


def turn_and_store(qkv: Tensor, cache: LayerCache, span: Span, shape: LlamaShape) -> Tensor:
    """Put the rows' keys and values into ``cache``; return their queries, see ``TorchKernels.store``."""
    _turn_and_store[(span.count, shape.heads + shape.groups)](
        qkv, span.cos, span.sin, cache.keys, cache.values, span.start, cache.keys.shape[1],
        HEADS=shape.heads, GROUPS=shape.groups, WIDTH=shape.head_width, num_warps=1,
    )  # fmt: skip
    queries = qkv[:, : shape.heads * shape.head_width]
    return queries.view(span.count, shape.heads, shape.head_width).transpose(0, 1)


@triton.jit(do_not_specialize=["start", "rows", "capacity"])
def _attend_short(
    qkv, cos, sin, keys, values, out, start, rows, capacity, scaling,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr, BM: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """One head of a short pass: rotate, store in the cache, attend to the cache and to the new rows."""
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
    # The new rows come first: each attends at least to itself, so the running maximum is finite.
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


@triton.jit(do_not_specialize=["start", "capacity"])
def _turn_and_store(
    qkv, cos, sin, keys, values, start, capacity,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One head of one row: rotate the query in place; store the rotated key and the value in the cache."""
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
