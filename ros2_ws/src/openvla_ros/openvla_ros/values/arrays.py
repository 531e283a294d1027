"""Validation of arrays inside the package's values: shape, finiteness, read-only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openvla_ros.errors import InvalidValueError

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]
Image = NDArray[np.uint8]


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return a read-only view of ``array``."""
    view = array.view()
    view.setflags(write=False)
    return view


def float_array(name: str, value: ArrayLike, shape: tuple[int | None, ...]) -> Float:
    """Return ``value`` as a read-only finite float64 copy; ``None`` in ``shape`` matches any length.

    Raises ``InvalidValueError`` naming the array, and its shape or its first non-finite value.
    """
    array = np.array(value, dtype=np.float64)
    if array.shape != shape and (
        array.ndim != len(shape)
        or any(want not in (None, have) for want, have in zip(shape, array.shape, strict=True))
    ):
        wanted = tuple("any" if n is None else n for n in shape)
        raise InvalidValueError(f"{name} has shape {array.shape}; it must be {wanted}")
    finite = np.isfinite(array)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise InvalidValueError(f"{name}{list(where)} is {array[where]}; it must be finite")
    return read_only(array)


def image_array(name: str, value: NDArray[Any]) -> Image:
    """Return ``value`` as a read-only uint8 (H, W, 3) RGB image, without a copy."""
    array = np.asarray(value)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise InvalidValueError(
            f"image {name!r} is {array.dtype} {array.shape}; "
            "it must be uint8 (height, width, 3) RGB and not empty"
        )
    return read_only(array)
