"""An image in a file, read whole or refused: PNG by its checksums, any format by its announced size."""

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

    Raises ``InvalidValueError`` naming the file and what is wrong: it is damaged or cut off, is no image,
    or announces more pixels than fit. A JPEG carries no checksum: flipped bits in it can pass as pixels.
    """
    with reading(f"{path} is not an image that can be read", InvalidValueError):
        with path.open("rb") as file:
            check_image_size(file.read(1 << 16), str(path))
        with PILImage.open(path) as image:
            return to_rgb(image)
