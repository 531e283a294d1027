"""Images of one camera, decoded on access.

Compressed images keep their bytes, so that a conversion copies them unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.preprocessing.image_encoding import decode_compressed, is_truncated_jpeg
from openvla_ros.values.arrays import Image, image_array
from openvla_ros.values.episode import ImageSequence

_JPEG_START = b"\xff\xd8\xff"


def decode_image(data: bytes, origin: str) -> Image:
    """Return a JPEG or PNG as uint8 (H, W, 3) RGB; ``origin`` names it in errors.

    Raises ``DatasetError`` if the bytes are not a complete image.
    """
    if is_truncated_jpeg(data):
        raise DatasetError(f"{origin}: a truncated JPEG of {len(data)} bytes")
    try:
        return decode_compressed(origin, data)
    except InvalidValueError as error:
        raise DatasetError(f"{origin}: {len(data)} bytes are not a readable JPEG or PNG: {error}") from error


def image_format(data: bytes) -> str:
    """Return "jpeg" or "png" from the first bytes of a compressed image, or "unknown"."""
    if data.startswith(_JPEG_START):
        return "jpeg"
    return "png" if data.startswith(b"\x89PNG\r\n\x1a\n") else "unknown"


class EncodedFrames:
    """Images held as JPEG or PNG bytes."""

    def __init__(self, frames: Sequence[bytes], origin: str) -> None:
        self._frames = frames
        self._origin = origin

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Image:
        return decode_image(self._frames[index], f"{self._origin}[{index}]")

    def encoded(self, index: int) -> bytes:
        """Return image ``index`` as it is stored."""
        return self._frames[index]


class ArrayFrames:
    """Images held as one array uint8 (T, H, W, 3), in memory or mapped from a file."""

    def __init__(self, frames: NDArray[np.uint8]) -> None:
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
            raise InvalidValueError(
                f"frames are {frames.dtype} {frames.shape}; they must be uint8 (T, H, W, 3)"
            )
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Image:
        return image_array("frame", self._frames[index])


class KeptFrames:
    """Images that are decoded once, for a reader that goes through them several times.

    They are kept until they take ``most_bytes``; those after that are decoded at each access.
    """

    def __init__(self, images: ImageSequence, most_bytes: int) -> None:
        self._images, self._left = images, most_bytes
        self._kept: dict[int, Image] = {}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Image:
        index = range(len(self))[index]
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        image = self._images[index]
        if image.nbytes <= self._left:
            self._left -= image.nbytes
            self._kept[index] = image
        return image

    def encoded(self, index: int) -> bytes | None:
        """Return image ``index`` as its source stores it, or None if the source has raw pixels."""
        return encoded_frame(self._images, index)


def encoded_frame(images: ImageSequence, index: int) -> bytes | None:
    """Return image ``index`` as its source stores it, or None if the source has raw pixels."""
    encoded = getattr(images, "encoded", None)
    return None if encoded is None else cast("bytes | None", encoded(index))
