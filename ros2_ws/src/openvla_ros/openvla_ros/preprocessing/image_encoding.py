"""Converts the pixel encodings of camera drivers to arrays: uint8 RGB, or depth in metres.

The encodings are those of sensor_msgs/Image and sensor_msgs/CompressedImage, but without messages:
recordings and live nodes decode with the same functions. Colours are decoded by OpenCV with the codes that
cv_bridge uses, so the arrays are the same with and without cv_bridge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from openvla_ros.errors import InvalidValueError
from openvla_ros.integrity.damage import reading
from openvla_ros.integrity.image_size import check_image_size
from openvla_ros.integrity.jpeg_length import jpeg_length
from openvla_ros.values.arrays import Image, read_only

Bytes = bytes | bytearray | memoryview | NDArray[np.uint8]
Depth = NDArray[np.float32]

# encoding → bytes a pixel, and the way from uint8 (H, W, bytes a pixel) to RGB
_TO_RGB: dict[str, tuple[int, Callable[[NDArray[Any]], NDArray[Any]]]] = {
    "rgb8": (3, lambda a: a),
    "bgr8": (3, lambda a: cv2.cvtColor(a, cv2.COLOR_BGR2RGB)),
    "rgba8": (4, lambda a: cv2.cvtColor(a, cv2.COLOR_RGBA2RGB)),
    "bgra8": (4, lambda a: cv2.cvtColor(a, cv2.COLOR_BGRA2RGB)),
    "mono8": (1, lambda a: cv2.cvtColor(a, cv2.COLOR_GRAY2RGB)),
    "yuv422": (2, lambda a: cv2.cvtColor(a, cv2.COLOR_YUV2RGB_UYVY)),
    "yuv422_yuy2": (2, lambda a: cv2.cvtColor(a, cv2.COLOR_YUV2RGB_YUY2)),
    # The four letters are the colours of the first two pixels of the first two rows. OpenCV's
    # older names, which alone exist in 4.x, are those of the second row's second pixel onwards.
    "bayer_rggb8": (1, lambda a: cv2.cvtColor(a, cv2.COLOR_BayerBG2RGB)),
    "bayer_bggr8": (1, lambda a: cv2.cvtColor(a, cv2.COLOR_BayerRG2RGB)),
    "bayer_gbrg8": (1, lambda a: cv2.cvtColor(a, cv2.COLOR_BayerGR2RGB)),
    "bayer_grbg8": (1, lambda a: cv2.cvtColor(a, cv2.COLOR_BayerGB2RGB)),
}
_SYNONYMS = {"uyvy": "yuv422", "yuyv": "yuv422_yuy2", "8UC1": "mono8", "mono16": "16UC1"}
_DEPTH_BYTES = {"16UC1": 2, "32FC1": 4}
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_AS_RGB: int | None = getattr(cv2, "IMREAD_COLOR_RGB", None)  # OpenCV decodes to RGB by itself from 4.11 on

COLOUR_ENCODINGS = (*_TO_RGB, "uyvy", "yuyv", "8UC1")
DEPTH_ENCODINGS = (*_DEPTH_BYTES, "mono16")


def decode_colour(encoding: str, height: int, width: int, step: int, data: Bytes) -> Image:
    """Return the image as uint8 (height, width, 3) RGB, read-only; ``rgb8`` without a copy.

    ``step`` is the bytes per row, padding included. Byte order does not matter: every colour encoding
    here has 8 bits per channel. YUV is ITU-R BT.601 with values 16 to 235, as UVC cameras send it.
    Raises ``InvalidValueError`` for an unsupported encoding or a wrong size.
    """
    name = _SYNONYMS.get(encoding, encoding)
    if name not in _TO_RGB:
        raise InvalidValueError(
            f"image encoding {encoding!r} is not a supported colour encoding; "
            f"supported: {', '.join(COLOUR_ENCODINGS)}"
        )
    channels, to_rgb = _TO_RGB[name]
    if name.startswith("yuv") and width % 2:
        raise InvalidValueError(f"a {encoding} image must have an even width; this one is {width} wide")
    if name.startswith("bayer") and min(height, width) < 3:
        raise InvalidValueError(f"a {encoding} image must be at least 3x3 pixels; it is {width}x{height}")
    pixels = _rows(encoding, height, width * channels, step, data)
    shape = (height, width) if channels == 1 else (height, width, channels)
    return read_only(to_rgb(pixels.reshape(shape)))


def decode_depth(encoding: str, height: int, width: int, step: int, big_endian: bool, data: Bytes) -> Depth:
    """Return depth as float32 (height, width) metres, NaN where there is no measurement (REP-118).

    ``16UC1`` is millimetres, 0 for no measurement; ``32FC1`` is metres. Raises ``InvalidValueError`` for
    an unsupported encoding or a wrong size.
    """
    name = _SYNONYMS.get(encoding, encoding)
    if name not in _DEPTH_BYTES:
        raise InvalidValueError(
            f"image encoding {encoding!r} is not a supported depth encoding; "
            f"supported: {', '.join(DEPTH_ENCODINGS)}"
        )
    size = _DEPTH_BYTES[name]
    rows = np.ascontiguousarray(_rows(encoding, height, width * size, step, data))
    order = ">" if big_endian else "<"
    if name == "32FC1":
        return read_only(rows.view(f"{order}f4").astype(np.float32))
    millimetres = rows.view(f"{order}u2")
    metres = millimetres.astype(np.float32) / np.float32(1000)
    metres[millimetres == 0] = np.nan
    return read_only(metres)


def decode_compressed(format_name: str, data: Bytes) -> Image:
    """Return a JPEG or PNG file in memory as uint8 (H, W, 3) RGB, read-only.

    The format is detected from the first bytes; ``format_name`` (the message's field, which drivers fill in
    many ways) is only used in errors. Raises ``InvalidValueError`` for another file type, a damaged
    file, or 16-bit samples, which are depth rather than colour.
    """
    raw = np.frombuffer(data, np.uint8)
    head = raw[:26].tobytes()
    if not head.startswith((_JPEG, _PNG)):
        raise InvalidValueError(
            f"compressed image {format_name!r} begins with {head[:8].hex(' ') or 'nothing'}; "
            "JPEG and PNG are supported"
        )
    if head.startswith(_PNG) and len(head) == 26 and head[24] == 16:  # the bit depth in the IHDR chunk
        raise InvalidValueError(f"compressed image {format_name!r} has 16 bits per sample; it must have 8")
    if is_truncated_jpeg(raw.data):  # it would be decoded, grey below the cut
        raise InvalidValueError(f"compressed image {format_name!r} is a truncated JPEG of {raw.size} bytes")
    check_image_size(raw.data, f"compressed image {format_name!r}")
    # Without this flag the orientation that a camera wrote into the file would turn the image.
    with reading(f"compressed image {format_name!r}", InvalidValueError):
        pixels = cv2.imdecode(raw, (_AS_RGB or cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise InvalidValueError(f"compressed image {format_name!r} of {raw.size} bytes is damaged")
    return read_only(pixels if _AS_RGB else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


def is_truncated_jpeg(data: bytes | memoryview) -> bool:
    """Return whether a JPEG lacks its end; what follows its end does not matter."""
    return bytes(data[:3]) == _JPEG and jpeg_length(data) is None


def encode_jpeg(image: Image, quality: int) -> bytes:
    """Return a uint8 (H, W, 3) RGB image as a JPEG file of ``quality`` 50 .. 100."""
    if not 50 <= quality <= 100:
        raise InvalidValueError(f"JPEG quality is {quality}; it must lie within 50 .. 100")
    return _encode(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_png(image: Image) -> bytes:
    """Return a uint8 (H, W, 3) RGB image as a PNG file: lossless, optimised for speed rather than size."""
    return _encode(image, ".png", [cv2.IMWRITE_PNG_COMPRESSION, 1])


def _encode(image: Image, suffix: str, options: list[int]) -> bytes:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(suffix, bgr, options)
    if not done:
        raise InvalidValueError(f"cannot encode an image of shape {image.shape} as {suffix}")
    return data.tobytes()


def _rows(encoding: str, height: int, row_bytes: int, step: int, data: Bytes) -> NDArray[np.uint8]:
    """Return uint8 (height, row_bytes) without row padding, as a view if possible."""
    raw = np.frombuffer(data, np.uint8)
    if height < 1 or row_bytes < 1:
        raise InvalidValueError(f"{encoding} image has {height} rows of {row_bytes} bytes: it is empty")
    if step < row_bytes:
        raise InvalidValueError(f"{encoding} image has a step of {step} bytes; its rows need {row_bytes}")
    if raw.size != height * step:
        raise InvalidValueError(
            f"{encoding} image has {raw.size} bytes; {height} rows of {step} are {height * step}"
        )
    return raw.reshape(height, step)[:, :row_bytes]
