"""The effect of JPEG compression on an image, without a file, as in the training data.

The LIBERO evaluation encodes each camera image with TensorFlow (quality 95, 4:2:0) and decodes it
with TensorFlow's default, libjpeg's fast integer DCT, which neither Pillow nor OpenCV offers. The
entropy coding is lossless, so the round trip is colour conversion, DCT, quantisation and back,
all in libjpeg's integer arithmetic (ITU-T T.81; IJG jfdctint and jidctfst). Knows nothing of files.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from openvla_ros.errors import InvalidValueError
from openvla_ros.values.arrays import Image, image_array

Plane = NDArray[np.int64]  # (H, W) samples 0 .. 255
Blocks = NDArray[np.int64]  # (rows, columns, 8, 8) of 8x8 blocks

# ITU-T T.81 Annex K: tables K.1 (luminance) and K.2 (chrominance), by row of the block.
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)


def jpeg_round_trip(image: Image, quality: int = 95) -> Image:
    """Return a uint8 image (H, W, 3) as it comes back from TensorFlow's ``encode_jpeg``, ``decode_image``.

    Raises ``InvalidValueError`` for a quality outside 1 .. 100.
    """
    if not 1 <= quality <= 100:
        raise InvalidValueError(f"JPEG quality is {quality}; it must lie within 1 .. 100")
    luma, blue, red = _transform_rgb_to_ycc(image_array("image", image).astype(np.int64))
    height, width = luma.shape
    luma = _compress(luma, _quantisation(_LUMINANCE, quality))
    table = _quantisation(_CHROMINANCE, quality)
    half = (width + 1) // 2  # the columns beyond it only complete the last block
    blue, red = (_upsample(_compress(_downsample(plane), table)[:, :half]) for plane in (blue, red))
    return _transform_ycc_to_rgb(luma, blue[:height, :width], red[:height, :width])


def _quantisation(table: tuple[tuple[int, ...], ...], quality: int) -> NDArray[np.int64]:
    """Return the quantisation table (8, 8) of a quality, as ``jpeg_set_quality`` scales it."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((np.array(table, dtype=np.int64) * percent + 50) // 100, 1, 255)


def _fixed(value: float, bits: int) -> int:
    return int(value * (1 << bits) + 0.5)


def _transform_rgb_to_ycc(rgb: NDArray[np.int64]) -> tuple[Plane, Plane, Plane]:
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    half, center = 1 << 15, 128 << 16
    luma = _fixed(0.299, 16) * r + _fixed(0.587, 16) * g + _fixed(0.114, 16) * b + half
    blue = -_fixed(0.16874, 16) * r - _fixed(0.33126, 16) * g + half * b + center + half - 1
    red = half * r - _fixed(0.41869, 16) * g - _fixed(0.08131, 16) * b + center + half - 1
    return luma >> 16, blue >> 16, red >> 16


def _transform_ycc_to_rgb(luma: Plane, blue: Plane, red: Plane) -> Image:
    cb, cr, half = blue - 128, red - 128, 1 << 15
    r = luma + ((_fixed(1.402, 16) * cr + half) >> 16)
    g = luma + ((-_fixed(0.34414, 16) * cb - _fixed(0.71414, 16) * cr + half) >> 16)
    b = luma + ((_fixed(1.772, 16) * cb + half) >> 16)
    rgb: Image = np.clip(np.stack([r, g, b], axis=-1), 0, 255).astype(np.uint8)
    return rgb


def _downsample(plane: Plane) -> Plane:
    """Halve both axes; the rounding alternates along a row so that it has no bias."""
    height, width = plane.shape
    # Rows are completed to a pair, columns to whole blocks, before averaging.
    columns = -(-width // 16) * 16
    padded = np.pad(plane, ((0, height % 2), (0, columns - width)), mode="edge")
    total = padded[0::2, 0::2] + padded[0::2, 1::2] + padded[1::2, 0::2] + padded[1::2, 1::2]
    averaged: Plane = (total + 1 + np.arange(columns // 2) % 2) >> 2
    return averaged


def _upsample(plane: Plane) -> Plane:
    """Double both axes with libjpeg's triangle filter (3/4 near, 1/4 far), rounded alternately."""
    if plane.shape[1] <= 2:
        return np.repeat(np.repeat(plane, 2, axis=0), 2, axis=1)
    rows = np.pad(plane, ((1, 1), (0, 0)), mode="edge")
    tall = np.empty((2 * plane.shape[0], plane.shape[1]), dtype=np.int64)
    tall[0::2], tall[1::2] = 3 * plane + rows[:-2], 3 * plane + rows[2:]
    columns = np.pad(tall, ((0, 0), (1, 1)), mode="edge")
    wide = np.empty((tall.shape[0], 2 * tall.shape[1]), dtype=np.int64)
    wide[:, 0::2] = (3 * tall + columns[:, :-2] + 8) >> 4
    wide[:, 1::2] = (3 * tall + columns[:, 2:] + 7) >> 4
    return wide


def _compress(plane: Plane, table: NDArray[np.int64]) -> Plane:
    """Return a plane after the DCT, its quantisation by ``table`` (8, 8), and the inverse."""
    height, width = plane.shape
    padded = np.pad(plane, ((0, -height % 8), (0, -width % 8)), mode="edge")
    rows, columns = padded.shape[0] // 8, padded.shape[1] // 8
    blocks = padded.reshape(rows, 8, columns, 8).swapaxes(1, 2) - 128
    coefficients = _forward(_forward(blocks, 3, last=False), 2, last=True)
    divisor = table * 8  # the forward transform scales by 8
    levels = np.sign(coefficients) * ((np.abs(coefficients) + divisor // 2) // divisor)
    # Dequantised with the row and column factors of the fast transform, 2 fractional bits.
    angles = np.cos(np.arange(8) * np.pi / 16) * np.sqrt(2.0)
    angles[0] = 1.0
    factors = np.floor(np.outer(angles, angles) * (1 << 14) + 0.5).astype(np.int64)
    samples = _inverse(_inverse(levels * ((table * factors + (1 << 11)) >> 12), 2), 3) >> 5
    decoded: Plane = np.clip(samples + 128, 0, 255).swapaxes(1, 2).reshape(padded.shape)
    return decoded[:height, :width]


def _forward(blocks: Blocks, axis: int, *, last: bool) -> Blocks:
    """One pass of the accurate integer DCT (Loeffler, Ligtenberg and Moschytz; IJG jfdctint)."""
    x = np.moveaxis(blocks, axis, 0)
    t0, t1, t2, t3 = (x[i] + x[7 - i] for i in range(4))
    t7, t6, t5, t4 = (x[i] - x[7 - i] for i in range(4))
    t10, t13, t11, t12 = t0 + t3, t0 - t3, t1 + t2, t1 - t2
    shift = 15 if last else 11

    def scale(value: NDArray[np.int64]) -> NDArray[np.int64]:
        return (value + (1 << (shift - 1))) >> shift

    def plain(value: NDArray[np.int64]) -> NDArray[np.int64]:
        return (value + 2) >> 2 if last else value << 2

    z = (t12 + t13) * _fixed(0.541196100, 13)
    z1, z2 = (t4 + t7) * -_fixed(0.899976223, 13), (t5 + t6) * -_fixed(2.562915447, 13)
    z5 = (t4 + t5 + t6 + t7) * _fixed(1.175875602, 13)
    z3 = (t4 + t6) * -_fixed(1.961570560, 13) + z5
    z4 = (t5 + t7) * -_fixed(0.390180644, 13) + z5
    out = [
        plain(t10 + t11),
        scale(t7 * _fixed(1.501321110, 13) + z1 + z4),
        scale(z + t13 * _fixed(0.765366865, 13)),
        scale(t6 * _fixed(3.072711026, 13) + z2 + z3),
        plain(t10 - t11),
        scale(t5 * _fixed(2.053119869, 13) + z2 + z4),
        scale(z - t12 * _fixed(1.847759065, 13)),
        scale(t4 * _fixed(0.298631336, 13) + z1 + z3),
    ]
    return np.stack(out, axis=axis)


def _inverse(blocks: Blocks, axis: int) -> Blocks:
    """One pass of the fast integer inverse DCT (Arai, Agui and Nakajima; IJG jidctfst)."""
    x = np.moveaxis(blocks, axis, 0)

    def times(value: NDArray[np.int64], factor: float) -> NDArray[np.int64]:
        return (value * _fixed(factor, 8)) >> 8

    t10, t11, t13 = x[0] + x[4], x[0] - x[4], x[2] + x[6]
    t12 = times(x[2] - x[6], 1.414213562) - t13
    t0, t3, t1, t2 = t10 + t13, t10 - t13, t11 + t12, t11 - t12
    z13, z10, z11, z12 = x[5] + x[3], x[5] - x[3], x[1] + x[7], x[1] - x[7]
    t7 = z11 + z13
    z5 = times(z10 + z12, 1.847759065)
    t6 = ((z10 * -_fixed(2.613125930, 8)) >> 8) + z5 - t7
    t5 = times(z11 - z13, 1.414213562) - t6
    t4 = times(z12, 1.082392200) - z5 + t5
    return np.stack([t0 + t7, t1 + t6, t2 + t5, t3 - t4, t3 + t4, t2 - t5, t1 - t6, t0 - t7], axis=axis)
