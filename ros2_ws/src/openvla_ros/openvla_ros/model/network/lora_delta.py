"""The update that an adapter adds to a module: a product of two narrow matrices.

Methods: Hu et al., arXiv 2106.09685; Liu et al., arXiv 2402.09353 (DoRA). Files are read in
``checkpoints.lora_adapters``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class LowRankUpdate:
    """What an adapter adds to one module: down to ``rank`` channels, up again, times ``scale``.

    For a linear layer ``down`` is (rank, in) and ``up`` (out, rank); for a convolution (rank, in, k, k)
    and (out, rank, 1, 1). With ``gain`` (out,), DoRA's, the sum of module and update is scaled by it, output
    channel by output channel; the module's bias is not.
    """

    down: Tensor
    up: Tensor
    scale: float
    gain: Tensor | None = None

    def __call__(self, module: nn.Module, x: Tensor) -> Tensor:
        """Return the low-rank part, before the gain, of ``module``'s output for its input ``x``."""
        x = x.to(self.down.dtype)
        if isinstance(module, nn.Conv2d):
            low = functional.conv2d(x, self.down, stride=module.stride, padding=module.padding)
            return functional.conv2d(low, self.up) * self.scale
        return functional.linear(functional.linear(x, self.down), self.up) * self.scale

    def apply(self, module: Any, x: Tensor, output: Tensor) -> Tensor:
        """Return the adapted output of ``module``, whose own output for ``x`` is ``output``."""
        update = self(module, x).to(output.dtype)
        if self.gain is None:
            return output + update
        shape = (-1, 1, 1) if isinstance(module, nn.Conv2d) else (-1,)
        bias = 0.0 if module.bias is None else module.bias.to(output.dtype).view(shape)
        return (output - bias + update) * self.gain.to(output.dtype).view(shape) + bias

    def weight(self) -> Tensor:
        """Return the low-rank part, before the gain, as a float32 change of the module's weight."""
        down, up = self.down.float(), self.up.float()
        if down.ndim == 4:
            return self.scale * torch.einsum("or,rikl->oikl", up[:, :, 0, 0], down)
        return self.scale * (up @ down)

    def merged(self, weight: Tensor) -> Tensor:
        """Return the adapted weight in float32, for the module's own ``weight``."""
        total = weight.float() + self.weight()
        return total if self.gain is None else total * self.gain.float().view(-1, *(1,) * (total.ndim - 1))


@dataclass(frozen=True, eq=False)
class ActiveAdapter:
    """The updates of one loaded adapter, on the network's device."""

    name: str
    serial: int  # tells adapters apart even if a name is used again; from 1
    updates: Mapping[str, LowRankUpdate]  # by module
