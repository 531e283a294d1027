"""The size of a compressed image according to its header.

A few kilobytes can claim gigabytes of pixels, and decoders allocate what the header claims.
"""

from __future__ import annotations

from openvla_ros.errors import InvalidValueError

MOST_PIXELS = 178_956_970  # Pillow's limit too: half a gigabyte of RGB
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers of a JPEG without a length
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of a JPEG that state its size (SOF)


def check_image_size(data: bytes | memoryview, origin: str) -> None:
    """Raise ``InvalidValueError`` if a PNG or JPEG claims no pixels, or more than ``MOST_PIXELS``."""
    size = image_size(data)
    if size is None:
        return
    height, width = size
    if not 0 < height * width <= MOST_PIXELS:
        raise InvalidValueError(
            f"{origin}: an image of {width} x {height} pixels; the limit is {MOST_PIXELS} pixels"
        )


def image_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """Return height and width of a PNG or JPEG; None if its header does not contain them."""
    if bytes(data[:8]) == _PNG and len(data) >= 24:
        return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
    return _jpeg_size(data) if bytes(data[:2]) == _JPEG else None


def _jpeg_size(data: bytes | memoryview) -> tuple[int, int] | None:
    position = 2
    while position + 9 < len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF or marker in _ALONE:
            position += 1 if marker == 0xFF else 2
        elif marker in _FRAMES:
            start = position + 5
            return int.from_bytes(data[start : start + 2], "big"), int.from_bytes(
                data[start + 2 : start + 4], "big"
            )
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None
