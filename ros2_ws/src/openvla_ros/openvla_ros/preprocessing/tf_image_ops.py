"""TensorFlow's image operations in numpy, as used for OpenVLA's training data and evaluation.

Float32 throughout and in TensorFlow's order of operations, so that the results equal its uint8
pixels. Knows nothing of checkpoints; ``image_transform`` uses the crop, ``augmentation`` and the evaluation
the rest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from openvla_ros.errors import InvalidValueError
from openvla_ros.values.arrays import Image, image_array

Pixels = NDArray[np.float32]

# OpenVLA evaluates models that were trained with random crops on the middle 90% of the area.
CROP_AREA = 0.9
MODEL_SIZE = (224, 224)

_FLOAT_SCALE = np.float32(1.0 / 255)
_LANCZOS_RADIUS = np.float32(3.0)

# Minimax polynomials on ±π/4 of the float sine and cosine (Arm Optimized Routines; glibc since 2.28).
_HALF_PI = np.pi / 2
_SINE = (-0.16666654943701084, 0.008332178146138854, -0.00019517298981385725)
_COSINE = (-0.49999999725108224, 0.041666623324344516, -0.001388676379437604, 2.4390450703564542e-05)


def transform_uint8_to_unit(image: Image) -> Pixels:
    """Return uint8 pixels as float32 within 0 .. 1 (``tf.image.convert_image_dtype``)."""
    return image.astype(np.float32) * _FLOAT_SCALE


def transform_unit_to_uint8(pixels: Pixels) -> Image:
    """Return float32 pixels as uint8: truncate x · 255.5, saturated (``convert_image_dtype``)."""
    image: Image = np.clip(pixels * np.float32(255.5), 0.0, 255.0).astype(np.uint8)
    return image


def crop_and_resize(pixels: Pixels, box: tuple[float, float, float, float], size: tuple[int, int]) -> Pixels:
    """Return the box of float32 pixels (H, W, C), resampled to ``size`` (height, width).

    ``box`` is top, left, bottom, right as shares of (H - 1, W - 1); it must lie inside the image.
    Corners map to corners, bilinear: ``tf.image.crop_and_resize``.
    """
    top, left, bottom, right = (np.float32(value) for value in box)
    if not (0 <= top <= bottom <= 1 and 0 <= left <= right <= 1):
        raise InvalidValueError(f"crop box {box} must lie within 0 .. 1, top and left first")
    row, row_next, row_weight = _bilinear_axis(top, bottom, pixels.shape[0], size[0])
    column, column_next, column_weight = _bilinear_axis(left, right, pixels.shape[1], size[1])
    wx, wy = column_weight[None, :, None], row_weight[:, None, None]
    upper, lower = pixels[row], pixels[row_next]
    above = upper[:, column] + (upper[:, column_next] - upper[:, column]) * wx
    below = lower[:, column] + (lower[:, column_next] - lower[:, column]) * wx
    out: Pixels = above + (below - above) * wy
    return out


def crop_center(image: Image, area: float = CROP_AREA, size: tuple[int, int] = MODEL_SIZE) -> Image:
    """Return the middle ``area`` of a uint8 image (H, W, 3), resampled to ``size``.

    As OpenVLA's ``crop_and_resize`` at evaluation: both sides are cut to √area, then bilinear.
    """
    if not 0.0 < area <= 1.0:
        raise InvalidValueError(f"crop area is {area}; it must lie within 0 .. 1")
    side = np.sqrt(np.float32(area))
    offset = (np.float32(1.0) - side) / np.float32(2.0)
    pixels = transform_uint8_to_unit(image_array("image", image))
    cropped = crop_and_resize(pixels, (offset, offset, offset + side, offset + side), size)
    return transform_unit_to_uint8(np.clip(cropped, 0.0, 1.0))


def resize_lanczos(image: Image, size: tuple[int, int] = MODEL_SIZE) -> Image:
    """Return a uint8 image (H, W, 3) resized to ``size`` with antialiased Lanczos-3.

    ``tf.image.resize(method="lanczos3", antialias=True)`` and rounding, as dlimp and the LIBERO
    evaluation do it.
    """
    pixels = image_array("image", image)
    if pixels.shape[:2] == size:
        return pixels
    rows = _apply_lanczos(pixels.astype(np.float32), size[0])
    columns = _apply_lanczos(rows.swapaxes(0, 1), size[1]).swapaxes(0, 1)
    return np.clip(np.rint(columns), 0.0, 255.0).astype(np.uint8)


def _bilinear_axis(
    start: np.float32, stop: np.float32, length: int, size: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], Pixels]:
    """Return the lower and upper source index of each output and the upper one's weight, (size,)."""
    last = np.float32(length - 1)
    if size > 1:
        step = (stop - start) * last / np.float32(size - 1)
        position = start * last + np.arange(size, dtype=np.float32) * step
    else:
        position = np.array([np.float32(0.5) * (start + stop) * last], dtype=np.float32)
    # Rounding may put the last sample a hair outside the image.
    position = np.clip(position, np.float32(0.0), last)
    lower = np.floor(position)
    weight = (position - lower).astype(np.float32)
    return lower.astype(np.intp), np.ceil(position).astype(np.intp), weight


def _apply_lanczos(pixels: Pixels, size: int) -> Pixels:
    """Resample the first axis of float32 pixels (L, ...) to ``size``, summing in source order."""
    start, weights = _lanczos_weights(pixels.shape[0], size)
    out = np.zeros((size, *pixels.shape[1:]), dtype=np.float32)
    for tap in range(weights.shape[1]):
        source = np.minimum(start + tap, pixels.shape[0] - 1)  # weights beyond the end are 0
        out += weights[:, tap].reshape(-1, *(1,) * (pixels.ndim - 1)) * pixels[source]
    return out


def _lanczos_weights(length: int, size: int) -> tuple[NDArray[np.intp], Pixels]:
    """Return the first source index (size,) and the normalised taps (size, span) of each output."""
    inverse_scale = np.float32(1.0) / (np.float32(size) / np.float32(length))
    stretch = max(inverse_scale, np.float32(1.0))  # low-pass when shrinking, interpolate when growing
    center = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * inverse_scale
    reach = _LANCZOS_RADIUS * stretch
    start = np.clip(np.ceil(center - reach - np.float32(0.5)), 0, length - 1).astype(np.intp)
    stop = np.clip(np.floor(center + reach - np.float32(0.5)), 0, length - 1).astype(np.intp) + 1
    source = start[:, None] + np.arange(int((stop - start).max()))
    distance = np.abs(
        (source.astype(np.float32) + np.float32(0.5) - center[:, None]) * (np.float32(1.0) / stretch)
    )
    weights = np.where(source < stop[:, None], _lanczos(distance), np.float32(0.0))
    total = np.zeros(size, dtype=np.float32)
    for tap in range(weights.shape[1]):
        total += weights[:, tap]
    return start, weights * (np.float32(1.0) / total)[:, None]


def _lanczos(x: Pixels) -> Pixels:
    pi, radius = np.float32(np.pi), _LANCZOS_RADIUS
    center = x <= np.float32(1e-3)
    safe = np.where(center, np.float32(1.0), x)
    value = radius * _sine(pi * safe) * _sine(pi * safe / radius) / (pi * pi * safe * safe)
    return np.where(center, np.float32(1.0), np.where(x > radius, np.float32(0.0), value))


def _sine(angle: Pixels) -> Pixels:
    """Return the sines that the C library's ``sinf`` gives TensorFlow, to the last bit.

    numpy's own float32 sine differs between processors, and one unit in the last place of a weight
    is enough to round a pixel the other way.
    """
    x = angle.astype(np.float64)
    quarter = np.floor(x / _HALF_PI + 0.5)
    x -= quarter * _HALF_PI
    x2 = x * x
    sine = x + x * x2 * _SINE[0] + x * x2 * x2 * (_SINE[1] + x2 * _SINE[2])
    cosine = 1.0 + x2 * _COSINE[0] + x2 * x2 * _COSINE[1] + x2**3 * (_COSINE[2] + x2 * _COSINE[3])
    value = np.where(quarter % 2 == 0, sine, cosine)
    rounded: Pixels = np.where(quarter % 4 >= 2, -value, value).astype(np.float32)
    return rounded
