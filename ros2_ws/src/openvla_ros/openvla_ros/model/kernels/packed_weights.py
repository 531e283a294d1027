"""Low-bit weight matrices, read instead of the 16-bit weights when a pass covers only a few tokens.

A short pass is bound by memory bandwidth, so half or a quarter of the bytes takes nearly half or a quarter
of the time. Not exact: the weights are rounded. The pass over the prompt is compute-bound and uses the
16-bit weights, so these matrices are stored in addition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from openvla_ros.errors import CheckpointError, InvalidValueError
from openvla_ros.model.kernels.linear_layers import Dense, LlamaMaps, Projection
from openvla_ros.model.network.bitsandbytes_layers import Packing

FLOAT8_CAPABILITY = (8, 9)  # the oldest devices whose matrix units take 8-bit floats: Ada and Hopper
# Passes of at most this many tokens use the packed weights: the rows of one matrix instruction.
SHORT = 16
FLOAT8 = torch.float8_e4m3fn
FLOAT8_MAX = 448.0  # the largest number of the type
_INT8_MAX = 127.0
_INT4_MAX = 15.0
# Weights that share a scale and an offset in 4 bits, largest first; a row must be a multiple.
_GROUPS = (128, 64, 32)


@dataclass(frozen=True, eq=False)
class RowScaled:
    """One scale for each row of a matrix of 8-bit numbers, integers or floats."""

    values: Tensor  # (out, in) int8 or float8_e4m3fn
    scale: Tensor  # (out,) float32

    def dense(self, dtype: torch.dtype) -> Tensor:
        """Return the dequantised matrix (out, in)."""
        return (self.values.float() * self.scale[:, None]).to(dtype)

    @property
    def size_bytes(self) -> int:
        """Bytes in memory."""
        return self.values.numel() + 4 * self.scale.numel()


@dataclass(frozen=True, eq=False)
class Grouped:
    """Four bits per weight, with a scale and an offset for each group in a row: ``low + scale · number``.

    In each group's bytes the first half of its numbers are the low four bits, the second half the high.
    """

    values: Tensor  # (out, in / 2) uint8
    pairs: Tensor  # (in / group, out) int32: the scale and, in the upper half, the offset, as bfloat16
    group: int

    def dense(self, dtype: torch.dtype) -> Tensor:
        """Return the dequantised matrix (out, in)."""
        out, half = self.values.shape
        packed = self.values.view(out, -1, self.group // 2)
        numbers = torch.cat([packed & 0xF, packed >> 4], dim=2).float()
        scale, low = self.pairs.t().contiguous().view(torch.bfloat16).float().view(out, -1, 2, 1).unbind(2)
        return (numbers * scale + low).view(out, 2 * half).to(dtype)

    @property
    def size_bytes(self) -> int:
        """Bytes in memory."""
        return self.values.numel() + 4 * self.pairs.numel()


Packed = RowScaled | Grouped


def pack_int8(weight: Tensor) -> RowScaled:
    """Return ``weight`` (out, in) in 8-bit integers, symmetric about 0."""
    scale = _safe(weight.float().abs().amax(dim=1) / _INT8_MAX)
    return RowScaled((weight.float() / scale[:, None]).round().to(torch.int8), scale)


def pack_float8(weight: Tensor) -> RowScaled:
    """Return ``weight`` (out, in) in 8-bit floats of 4 exponent bits."""
    scale = _safe(weight.float().abs().amax(dim=1) / FLOAT8_MAX)
    return RowScaled((weight.float() / scale[:, None]).to(FLOAT8), scale)


def pack_int4(weight: Tensor) -> Grouped:
    """Return ``weight`` (out, in) in 4-bit integers between each group's least and largest number.

    Raises ``InvalidValueError`` if the row length is not a multiple of the smallest group.
    """
    out, inside = weight.shape
    group = next((size for size in _GROUPS if inside % size == 0), None)
    if group is None:
        raise InvalidValueError(f"4 bits need rows of a multiple of {_GROUPS[-1]} weights; got {inside}")
    groups = weight.float().view(out, -1, group)
    low = groups.amin(dim=2).bfloat16()
    scale = _safe((groups.amax(dim=2) - low.float()) / _INT4_MAX).bfloat16()
    steps = (groups - low.float()[:, :, None]) / scale.float()[:, :, None]
    first, second = steps.round().clamp(0, _INT4_MAX).to(torch.uint8).chunk(2, dim=2)
    pairs = torch.stack([scale, low], dim=2).view(torch.int32)[:, :, 0].t().contiguous()
    return Grouped((first | second << 4).reshape(out, inside // 2), pairs, group)


def _safe(scale: Tensor) -> Tensor:
    """Return ``scale`` with 1 instead of 0 (for rows of zeros)."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))


@dataclass(frozen=True, eq=False)
class ShortPacked:
    """A projection that uses packed weights in short passes and the original ones in long passes."""

    weight: Tensor  # (out, in), of the network
    packed: Packed

    def __call__(self, x: Tensor) -> Tensor:
        """Return (N, out) for (N, in)."""
        return functional.linear(x, self._weight(x))

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return ``residual`` plus the map of ``x``, in the memory of ``residual``."""
        return residual.addmm_(x, self._weight(x).t())

    def _weight(self, x: Tensor) -> Tensor:
        return self.weight if len(x) > SHORT else self.packed.dense(x.dtype)


@dataclass(frozen=True, eq=False)
class Float8:
    """A projection in 8-bit floats: both the weights and, row by row, the inputs."""

    packed: RowScaled

    def __call__(self, x: Tensor) -> Tensor:
        """Return (N, out) for (N, in)."""
        scale = _safe(x.float().abs().amax(dim=1, keepdim=True) / FLOAT8_MAX)
        return self.multiply((x / scale).to(FLOAT8), scale, x.dtype)

    def multiply(self, x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the product (N, out) for 8-bit rows (N, in) and their scales (N, 1)."""
        weights = self.packed
        if x.device.type == "cpu":  # whose library has no scales by row
            product = (x.float() * scale) @ weights.dense(torch.float32).t()
        else:
            product = torch._scaled_mm(
                x,
                weights.values.t(),
                scale_a=scale,
                scale_b=weights.scale[None],
                out_dtype=torch.bfloat16,
                use_fast_accum=True,
            )
        return product.to(dtype)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return ``residual`` plus the map of ``x``."""
        return residual + self(x)


def packing(how: Packing, device: torch.device) -> Callable[[LlamaMaps], LlamaMaps]:
    """Return the function that packs a model's maps on ``device``.

    Raises ``CheckpointError`` if the device does not support such weights.
    """
    if how == "fp8":
        check_float8(device)
    return lambda maps: pack_maps(maps, how)


def check_float8(device: torch.device) -> None:
    """Raise ``CheckpointError`` unless ``device`` has 8-bit floating-point matrix multiplication."""
    needed = ".".join(map(str, FLOAT8_CAPABILITY))
    if device.type != "cuda":
        raise CheckpointError(f"fp8 needs a CUDA device of compute capability {needed}; this is {device}")
    found = torch.cuda.get_device_capability(device)
    if found < FLOAT8_CAPABILITY:
        name = torch.cuda.get_device_name(device)
        raise CheckpointError(
            f"fp8 needs a CUDA device of compute capability {needed}; {name} has {found[0]}.{found[1]}, "
            "which supports int8wo and int4wo"
        )


def pack_maps(maps: LlamaMaps, how: Packing) -> LlamaMaps:
    """Return ``maps`` with packed layers; the norms and the output head keep their type."""
    layers = (
        layer.with_projections(_pack(projection, how) for projection in layer.projections)
        for layer in maps.layers
    )
    return replace(maps, layers=tuple(layers))


def _pack(projection: Projection, how: Packing) -> Projection:
    assert isinstance(projection, Dense)
    match how:
        case "int8wo":
            return ShortPacked(projection.weight, pack_int8(projection.weight))
        case "int4wo":
            return ShortPacked(projection.weight, pack_int4(projection.weight))
        case "fp8":
            return Float8(pack_float8(projection.weight))


def packed_bytes(maps: LlamaMaps) -> int:
    """Return the memory of the packed weights of ``maps``, bytes, without the network's own."""
    every = (projection for layer in maps.layers for projection in layer.projections)
    return sum(p.packed.size_bytes for p in every if isinstance(p, (ShortPacked, Float8)))
