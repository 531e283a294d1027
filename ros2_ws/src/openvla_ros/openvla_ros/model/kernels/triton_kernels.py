"""Fused kernels for CUDA devices: the steps of ``torch_kernels`` with fewer trips to memory.

A pass over a few tokens is bound by memory bandwidth; here it takes five launches per layer, which read
every weight once: the norm, the gate and the residual are fused into the products. A pass over the prompt
is compute-bound and leaves its products to the vendor's library; the steps between them are here.
Products are summed in float32.

The sizes must be multiples of 16 and the head width a power of two; ``problems`` lists violations.
"""

from __future__ import annotations

from subprocess import SubprocessError

import torch
from torch import Tensor
from triton.errors import TritonError

from openvla_ros.model.kernels.linear_layers import Adapted, LayerMaps, Projection, Scaled
from openvla_ros.model.kernels.packed_weights import SHORT, Float8
from openvla_ros.model.kernels.torch_kernels import LayerCache, LlamaShape, Span, TorchKernels
from openvla_ros.model.kernels.triton_attention import attend_short, turn_and_store
from openvla_ros.model.kernels.triton_elementwise import gate_rows, norm_rows, round_rows
from openvla_ros.model.kernels.triton_gemv import is_short, multiply

# What compiling or running a kernel can raise: also where there is no C compiler for the launcher.
FAILURES = (TritonError, RuntimeError, OSError, SubprocessError)
CHECKED = 3 * SHORT  # positions that ``check`` needs
# How far a layer may be off the reference at load, relative: rounding in float32 and in 16 bits.
_EXACT, _ROUNDED = 1e-4, 3e-2


class TritonKernels(TorchKernels):
    """The steps of a pass as fused kernels."""

    name = "triton"

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return ``x`` (N, H) divided by the root of its mean square, times ``weight`` (H,)."""
        return norm_rows(x, weight, self.shape.eps)

    def norm_project(self, x: Tensor, weight: Tensor, projection: Projection) -> Tensor:
        """Return the projection (N, out) of the normed rows (N, H)."""
        if isinstance(projection, Scaled):
            return self.norm_project(x, weight, projection.base) * projection.gain
        if not is_short(x, projection):
            return self.project(self.norm(x, weight), projection)
        if isinstance(projection, Adapted):
            low = self.norm_project(x, weight, projection.down)
            return projection.update(self.norm_project(x, weight, projection.base), low)
        return multiply(x, projection, self.shape.eps, norm=weight)

    def norm_gate(self, x: Tensor, weight: Tensor, projection: Projection) -> Tensor:
        """Return silu(gate) · up (N, I) of the normed rows (N, H)."""
        if isinstance(projection, Adapted) or not is_short(x, projection):
            return self.gate(self.norm_project(x, weight, projection))
        return multiply(x, projection, self.shape.eps, norm=weight, gated=True)

    def project_add(self, residual: Tensor, x: Tensor, projection: Projection) -> Tensor:
        """Return ``residual`` (N, H) plus the projection of ``x``; ``residual`` may be overwritten."""
        if isinstance(projection, Scaled):
            return residual + self.project(x, projection)
        if isinstance(projection, Adapted):
            low = self.project(x, projection.down)
            return projection.update(self.project_add(residual, x, projection.base), low)
        if is_short(x, projection):
            return multiply(x, projection, self.shape.eps, residual=residual)
        if isinstance(projection, Float8):
            return residual + self.project(x, projection)
        return projection.add_to(residual, x)

    def project(self, x: Tensor, projection: Projection) -> Tensor:
        """Return the projection (N, out) of rows (N, in)."""
        if isinstance(projection, Scaled):
            return self.project(x, projection.base) * projection.gain
        if isinstance(projection, Adapted):
            low = self.project(x, projection.down)
            return projection.update(self.project(x, projection.base), low)
        if is_short(x, projection):
            return multiply(x, projection, self.shape.eps)
        if isinstance(projection, Float8):
            return projection.multiply(*round_rows(x), x.dtype)
        return projection(x)

    def gate(self, gate_up: Tensor) -> Tensor:
        """Return silu(gate) · up (N, I) for both side by side (N, 2 I)."""
        return gate_rows(gate_up)

    def attend(self, qkv: Tensor, cache: LayerCache, span: Span, rows: int) -> Tensor:
        """Return what the last ``rows`` rows attend to, as ``TorchKernels.attend``."""
        if span.count > SHORT or not span.one_way:
            return super().attend(qkv, cache, span, rows)
        return attend_short(qkv, cache, span, self.shape)[span.count - rows :]

    def store(self, qkv: Tensor, cache: LayerCache, span: Span) -> Tensor:
        """Put the rows' keys and values into ``cache``; return their queries (heads, N, head width)."""
        return turn_and_store(qkv, cache, span, self.shape)


def problems(shape: LlamaShape, vocabulary: int) -> list[str]:
    """Return why the kernels do not support a model of these sizes; empty if they do."""
    sizes = {
        "hidden size": shape.width,
        "inner width": shape.inner_width,
        "query width": shape.heads * shape.head_width,
        "key width": shape.groups * shape.head_width,
        "vocabulary": vocabulary,
    }
    found = [f"{name} {size} is not a multiple of 16" for name, size in sizes.items() if size % 16]
    if shape.head_width < 32 or shape.head_width & (shape.head_width - 1):
        found.append(f"head width {shape.head_width} is not a power of two of at least 32")
    return found


def check(kernels: TritonKernels, layer: LayerMaps, positions: tuple[Tensor, Tensor]) -> None:
    """Raise ``RuntimeError`` unless one layer matches the reference, in short and long passes.

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
