"""A batch of training examples as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples as tensors, padded on the right."""

    pixels: Tensor  # (B, 3 a tower, H, W) float32
    token_ids: Tensor  # (B, L)
    labels: Tensor  # (B, L) an id, or IGNORED
    is_action: Tensor  # (B,) bool: an action; otherwise an answer in words

    def __len__(self) -> int:
        return len(self.token_ids)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        parts = (self.pixels, self.token_ids, self.labels, self.is_action)
        return Batch(*(part.to(device, non_blocking=True) for part in parts))

    def split(self, size: int) -> list[Batch]:
        """Return the batch in pieces of at most ``size`` examples, in order."""
        parts = (self.pixels, self.token_ids, self.labels, self.is_action)
        return [Batch(*pieces) for pieces in zip(*(torch.split(part, size) for part in parts), strict=True)]
