"""Arrays as other programs send them: a numpy type string, a shape and raw bytes. Never objects or text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_ros.errors import InvalidValueError
from openvla_ros.values.arrays import Image

# numpy's ``dtype.str`` of booleans, integers and floats; whatever else numpy knows is refused.
DTYPES = ("|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8")
MOST_DIMENSIONS = 8


def array_from_bytes(dtype: object, shape: object, data: object) -> NDArray[Any]:
    """Return the array in ``data``, checked against its type and shape before it is made.

    Raises ``InvalidValueError`` for a type that is not in ``DTYPES``, and if ``data`` has another length than
    the shape needs.
    """
    if dtype not in DTYPES:
        raise InvalidValueError(f"an array of type {_shown(dtype)}; the choices are {', '.join(DTYPES)}")
    if not isinstance(shape, list | tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise InvalidValueError(f"an array of shape {_shown(shape)}; it must be a list of lengths")
    if len(shape) > MOST_DIMENSIONS:
        raise InvalidValueError(f"an array of {len(shape)} dimensions; at most {MOST_DIMENSIONS} are read")
    kind = np.dtype(str(dtype))
    needed = math.prod(shape) * kind.itemsize
    if not isinstance(data, bytes) or len(data) != needed:
        found = f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__
        raise InvalidValueError(f"an array {kind} {tuple(shape)} takes {needed} bytes; got {found}")
    return np.frombuffer(data, kind).reshape(shape)


def image_from_array(name: str, value: object) -> Image:
    """Return an image uint8 (H, W, 3) from what policy servers take.

    That is uint8 or floats of 0..1, rows first (H, W, 3) or channels first (3, H, W); raises
    ``InvalidValueError`` for anything else.
    """
    if not isinstance(value, np.ndarray) or value.ndim != 3 or 3 not in (value.shape[0], value.shape[2]):
        found = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else _shown(value)
        raise InvalidValueError(f"{name} is {found}; it must be an image (height, width, 3) or (3, H, W)")
    image = value if value.shape[2] == 3 else np.moveaxis(value, 0, 2)
    if image.dtype.kind == "f":
        if not (image.size and np.isfinite(image).all() and image.min() >= 0.0 and image.max() <= 1.0):
            raise InvalidValueError(f"{name} has floats outside 0 .. 1; send those, or uint8 of 0 .. 255")
        image = (255 * image).astype(np.uint8)  # cut off, as openpi does
    if image.dtype != np.uint8:
        raise InvalidValueError(f"{name} is {image.dtype}; it must be uint8, or floats of 0 .. 1")
    return np.ascontiguousarray(image)


def _shown(value: object) -> str:
    """Return an untrusted value for an error message, shortened to one line."""
    return repr(value)[:80]
