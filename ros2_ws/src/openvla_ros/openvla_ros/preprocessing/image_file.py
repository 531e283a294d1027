"""Reads an image file, or refuses it: PNG by checksum, any format by the size in its header."""

from __future__ import annotations

from pathlib import Path

from PIL import Image as PILImage

from openvla_ros.errors import InvalidValueError
from openvla_ros.integrity.damage import reading
from openvla_ros.integrity.image_size import check_image_size
from openvla_ros.preprocessing.image_transform import to_rgb
from openvla_ros.values.arrays import Image


def read_image(path: Path) -> Image:
    """Return an image in any format that PIL reads, as uint8 (H, W, 3) RGB.

    Raises ``InvalidValueError`` naming the file and the problem: it is damaged, truncated, not an image, or
    its header claims too many pixels. JPEG has no checksum: flipped bits in it can pass as pixels.
    """
    with reading(f"{path} is not a readable image", InvalidValueError):
        with path.open("rb") as file:
            check_image_size(file.read(1 << 16), str(path))
        with PILImage.open(path) as image:
            return to_rgb(image)
