"""Reads an image file as a person sees it, or refuses it with the reason."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image as PILImage

from openvla_ros.errors import InvalidValueError
from openvla_ros.integrity.damage import reading
from openvla_ros.integrity.image_size import MOST_PIXELS, check_image_size
from openvla_ros.preprocessing.image_transform import to_rgb
from openvla_ros.values.arrays import Image

_ORIENTATION = 0x0112  # EXIF: how to turn the stored pixels to show them; 1 is as they are
_DEEP = ("I", "F")  # PIL's modes of 16 and 32 bits per sample, and I;16 in any byte order


def read_image(path: Path) -> Image:
    """Return an image in any format that PIL reads, as uint8 (H, W, 3) RGB. Transparency is dropped.

    JPEG has no checksum: flipped bits in it can pass as pixels.

    Args:
        path: The file.

    Raises:
        InvalidValueError: The file is damaged, truncated or not an image; it has too many pixels, several
            images or more than 8 bits per sample; or it is stored turned. Names the file.
    """
    with reading(f"{path} is not a readable image", InvalidValueError):
        with path.open("rb") as file:
            check_image_size(file.read(1 << 16), str(path))
        with _opened(path) as image:
            problem = _problem(image)
            if problem:
                raise InvalidValueError(f"{path} {problem}")
            return to_rgb(image)


def _opened(path: Path) -> PILImage.Image:
    with warnings.catch_warnings():  # PIL warns at half the limit
        warnings.simplefilter("ignore", PILImage.DecompressionBombWarning)
        try:
            return PILImage.open(path)
        except PILImage.DecompressionBombError as error:
            raise InvalidValueError(f"{path}: the limit is {MOST_PIXELS} pixels: {error}") from error


def _problem(image: PILImage.Image) -> str | None:
    """Return why the pixels cannot be used as they are stored; None if they can."""
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format != "MPO":  # some cameras append a preview to a JPEG
        return f"contains {count} images; save the one to use on its own"
    if image.mode.split(";")[0] in _DEEP:
        return f"has more than 8 bits per sample (mode {image.mode}); convert it to 8 bits"
    orientation = image.getexif().get(_ORIENTATION, 1)
    if orientation not in (0, 1):
        return (
            f"is stored rotated or mirrored (EXIF orientation {orientation}); no robot camera does "
            "that: save it upright, without that tag"
        )
    return None
