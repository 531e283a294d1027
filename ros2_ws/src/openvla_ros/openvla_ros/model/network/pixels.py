"""Converts images to the network's input pixels, on the network's device.

An image is transferred as 8-bit levels, already resized; each level is then looked up in a table with the
image transform's output for all 256 levels, for every channel of every tower. So the pixels match
``ImageTransform`` to the last bit, whatever the device's arithmetic.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from openvla_ros.preprocessing.image_transform import ImageTransform
from openvla_ros.values.arrays import Image


class PixelTable:
    """The image transform's output for each level, tabulated on one device in one data type."""

    def __init__(self, transform: ImageTransform, device: torch.device, dtype: torch.dtype) -> None:
        self._transform = transform
        rows = np.concatenate([tower.normalised_levels() for tower in transform.towers])
        self._values = torch.from_numpy(rows).to(device, dtype)  # (3 a tower, 256)

    def __call__(self, image: Image, *, center_crop: bool = False) -> Tensor:
        """Return the pixels (1, 3 a tower, H, W) of an RGB image (H, W, 3) uint8."""
        return self.of_levels(self.levels(image, center_crop=center_crop)[None])

    def levels(self, image: Image, *, center_crop: bool = False) -> Tensor:
        """Return the 8-bit levels (views, H, W, 3) of an RGB image, on the CPU."""
        return torch.from_numpy(self._transform.levels(image, center_crop))

    def of_levels(self, levels: Tensor) -> Tensor:
        """Return the pixels (B, 3 a tower, H, W) of the levels (B, views, H, W, 3) of B images."""
        levels = upload(levels, self._values.device)
        channels, (height, width), count = len(self._values), self._transform.size, len(levels)
        # One set of levels serves all towers where they resize alike.
        index = levels.permute(1, 4, 0, 2, 3).reshape(-1, 3, count * height * width).long()
        index = index.expand(channels // 3, 3, -1).reshape(channels, -1)
        pixels = self._values.gather(1, index).view(channels, count, height, width)
        return pixels.transpose(0, 1).contiguous()


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to ``device``; to a CUDA device asynchronously, through pinned memory."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
