"""The update that an adapter adds to a module: a product of two narrow matrices.

Method: Hu et al., arXiv 2106.09685. Files are read in ``checkpoints.lora_adapters``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class LowRankUpdate:
    """What an adapter adds to one module: down to ``rank`` channels, up again, times ``scale``.

    For a linear layer ``down`` is (rank, in) and ``up`` (out, rank); for a convolution (rank, in, k, k)
    and (out, rank, 1, 1).
    """

    down: Tensor
    up: Tensor
    scale: float

    def __call__(self, module: nn.Module, x: Tensor) -> Tensor:
        """Return the update of ``module``'s output for its input ``x``."""
        x = x.to(self.down.dtype)
        if isinstance(module, nn.Conv2d):
            low = functional.conv2d(x, self.down, stride=module.stride, padding=module.padding)
            return functional.conv2d(low, self.up) * self.scale
        return functional.linear(functional.linear(x, self.down), self.up) * self.scale

    def weight(self) -> Tensor:
        """Return the same update as a float32 change of the module's weight."""
        down, up = self.down.float(), self.up.float()
        if down.ndim == 4:
            return self.scale * torch.einsum("or,rikl->oikl", up[:, :, 0, 0], down)
        return self.scale * (up @ down)


@dataclass(frozen=True, eq=False)
class ActiveAdapter:
    """The updates of one loaded adapter, on the network's device."""

    name: str
    serial: int  # tells adapters apart even if a name is used again; from 1
    updates: Mapping[str, LowRankUpdate]  # by module
