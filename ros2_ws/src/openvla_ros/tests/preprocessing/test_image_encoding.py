"""Every encoding against the plainest per-pixel computation; padding, byte order and refusals."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from openvla_ros.errors import InvalidValueError
from openvla_ros.preprocessing import image_encoding
from openvla_ros.preprocessing.image_encoding import (
    COLOUR_ENCODINGS,
    decode_colour,
    decode_compressed,
    decode_depth,
    encode_jpeg,
)

CHANNELS = {"rgb8": "rgb", "bgr8": "bgr", "rgba8": "rgba", "bgra8": "bgra", "mono8": "y", "8UC1": "y"}
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5), st.integers(0, 2**32 - 1))


def padded(rows: np.ndarray, padding: int) -> tuple[int, bytes]:
    """Rows (H, bytes) with ``padding`` bytes of rubbish after each: (step, data)."""
    rubbish = np.full((len(rows), padding), 0xA5, np.uint8)
    return rows.shape[1] + padding, np.hstack([rows, rubbish]).tobytes()


@pytest.mark.parametrize("encoding", CHANNELS)
@given(size=sizes)
@settings(max_examples=30, deadline=None)
def test_channel_orders(encoding, size):
    height, width, padding, seed = size
    order = CHANNELS[encoding]
    raw = np.random.default_rng(seed).integers(0, 256, (height, width, len(order)), np.uint8)
    step, data = padded(raw.reshape(height, -1), padding)
    rgb = decode_colour(encoding, height, width, step, data)
    assert (rgb.dtype, rgb.shape, rgb.flags.writeable) == (np.uint8, (height, width, 3), False)
    for r in range(height):
        for c in range(width):
            wanted = [raw[r, c, order.index("y" if order == "y" else k)] for k in "rgb"]
            assert rgb[r, c].tolist() == wanted


def bt601(y: int, u: int, v: int) -> np.ndarray:
    """ITU-R BT.601, Y 16..235, U and V 16..240 around 128, to RGB 0..255."""
    luma = 1.164383 * (y - 16)
    rgb = [
        luma + 1.596027 * (v - 128),
        luma - 0.391762 * (u - 128) - 0.812968 * (v - 128),
        luma + 2.017232 * (u - 128),
    ]
    return np.clip(np.round(rgb), 0, 255)


@pytest.mark.parametrize(
    ("encoding", "order"),
    [("yuv422", "UYVY"), ("uyvy", "UYVY"), ("yuv422_yuy2", "YUYV"), ("yuyv", "YUYV")],
)
@given(size=sizes)
@settings(max_examples=20, deadline=None)
def test_yuv_in_both_orders(encoding, order, size):
    height, pairs, padding, seed = size
    raw = np.random.default_rng(seed).integers(16, 236, (height, pairs, 4), np.uint8)
    step, data = padded(raw.reshape(height, -1), padding)
    rgb = decode_colour(encoding, height, 2 * pairs, step, data)
    luma = [i for i, letter in enumerate(order) if letter == "Y"]
    for r in range(height):
        for c in range(2 * pairs):
            four = raw[r, c // 2].astype(int)
            wanted = bt601(four[luma[c % 2]], four[order.index("U")], four[order.index("V")])
            assert np.abs(rgb[r, c].astype(int) - wanted).max() <= 1  # OpenCV computes in fixed point


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@given(seed=st.integers(0, 2**32 - 1), padding=st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_bayer_is_the_mean_of_the_nearest_samples_of_each_colour(pattern, seed, padding):
    height, width = 6, 8
    raw = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    step, data = padded(raw, padding)
    rgb = decode_colour(f"bayer_{pattern}8", height, width, step, data)
    for r in range(1, height - 1):
        for c in range(1, width - 1):
            for k, colour in enumerate("rgb"):
                near = {0: [], 1: [], 2: []}  # samples of this colour by their distance, in rows + columns
                for dr in (-1, 0, 1):
                    for dc in (-1, 0, 1):
                        if pattern[2 * ((r + dr) % 2) + (c + dc) % 2] == colour:
                            near[abs(dr) + abs(dc)].append(int(raw[r + dr, c + dc]))
                samples = next(near[d] for d in (0, 1, 2) if near[d])
                assert abs(int(rgb[r, c, k]) - np.mean(samples)) <= 0.5


@pytest.mark.parametrize("big_endian", [False, True])
@given(size=sizes)
@settings(max_examples=30, deadline=None)
def test_depth_in_both_byte_orders(big_endian, size):
    height, width, padding, seed = size
    rng = np.random.default_rng(seed)
    order = "big" if big_endian else "little"
    millimetres = rng.integers(0, 4, (height, width)) * rng.integers(0, 20000, (height, width))
    millimetres = np.minimum(millimetres, 65535)
    rows = [b"".join(int(v).to_bytes(2, order) for v in row) for row in millimetres]
    step, data = padded(np.stack([np.frombuffer(row, np.uint8) for row in rows]), padding)
    for encoding in ("16UC1", "mono16"):
        depth = decode_depth(encoding, height, width, step, big_endian, data)
        assert (depth.dtype, depth.shape) == (np.float32, (height, width))
        np.testing.assert_array_equal(np.isnan(depth), millimetres == 0)
        np.testing.assert_allclose(np.nan_to_num(depth), millimetres / 1000, rtol=1e-6)

    metres = rng.uniform(0, 10, (height, width)).astype(np.float32)
    metres[0, 0] = np.nan
    rows = metres.astype(">f4" if big_endian else "<f4").view(np.uint8).reshape(height, -1)
    step, data = padded(rows, padding)
    np.testing.assert_array_equal(decode_depth("32FC1", height, width, step, big_endian, data), metres)


def test_rgb8_is_not_copied():
    data = np.arange(2 * 3 * 3, dtype=np.uint8)
    assert np.shares_memory(decode_colour("rgb8", 2, 3, 9, data), data)


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    PILImage.fromarray(array).save(stream, format="png")
    return stream.getvalue()


@given(size=sizes)
@settings(max_examples=20, deadline=None)
def test_png_is_exact(size):
    height, width, _, seed = size
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    np.testing.assert_array_equal(decode_compressed("png", png(image)), image)
    np.testing.assert_array_equal(decode_compressed("png", png(image[..., 0])), image[..., :1].repeat(3, 2))


def test_jpeg_is_what_pillow_reads_and_is_not_turned():
    ramp = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
    image = np.stack([ramp, 255 - ramp, ramp // 2], axis=-1)
    stream = io.BytesIO()
    exif = PILImage.Exif()
    exif[0x0112] = 6  # "turn me by 90 degrees"
    PILImage.fromarray(image).save(stream, format="jpeg", quality=95, exif=exif)
    decoded = decode_compressed("rgb8; jpeg compressed bgr8", stream.getvalue())
    reference = np.asarray(PILImage.open(io.BytesIO(stream.getvalue())).convert("RGB"))
    assert decoded.shape == image.shape
    assert np.abs(decoded.astype(int) - reference).max() <= 1


def test_jpeg_round_trip_keeps_the_colours_in_order():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:] = (200, 100, 20)
    back = decode_compressed("jpeg", encode_jpeg(image, 95))
    assert np.abs(back.astype(int) - image).max() <= 3


def test_an_opencv_that_cannot_decode_to_rgb_gives_the_same_pixels(monkeypatch):
    data = encode_jpeg(np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8), 95)
    here = decode_compressed("jpeg", data)
    monkeypatch.setattr(image_encoding, "_AS_RGB", None)  # OpenCV up to 4.10
    np.testing.assert_array_equal(decode_compressed("jpeg", data), here)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decode_colour("rgb16", 1, 1, 6, bytes(6)), r"'rgb16'.*rgb8, bgr8.*bayer_rggb8"),
        (lambda: decode_colour("16UC1", 1, 1, 2, bytes(2)), "'16UC1' is not a supported colour"),
        (lambda: decode_colour("8UC3", 1, 1, 3, bytes(3)), "'8UC3'"),
        (
            lambda: decode_depth("rgb8", 1, 1, False, 3, bytes(3)),
            "'rgb8' is not a supported depth.*16UC1, 32FC1",
        ),
        (lambda: decode_colour("rgb8", 2, 4, 11, bytes(22)), "step of 11 bytes; its rows need 12"),
        (lambda: decode_colour("bgr8", 2, 4, 12, bytes(23)), "has 23 bytes; 2 rows of 12 are 24"),
        (lambda: decode_colour("yuv422", 2, 3, 6, bytes(12)), "even width; this one is 3"),
        (lambda: decode_colour("bayer_rggb8", 2, 2, 2, bytes(4)), "at least 3x3"),
        (lambda: decode_colour("rgb8", 0, 4, 12, b""), "empty"),
        (lambda: decode_compressed("webp", b"RIFF0000WEBP"), "'webp' begins with 52 49 46 46"),
        (lambda: decode_compressed("jpeg", b""), "begins with nothing"),
        (lambda: decode_compressed("jpeg", b"\xff\xd8\xff\xe0rubbish"), "truncated JPEG of 11 bytes"),
        (lambda: decode_compressed("jpeg", b"\xff\xd8\xff\xe0\0\x04ru\xff\xd9"), "damaged"),
        (lambda: decode_compressed("png", png(np.full((4, 4), 900, np.uint16))), "16 bits per sample"),
    ],
)
def test_refusals_name_what_is_wrong(call, message):
    with pytest.raises(InvalidValueError, match=message):
        call()


@pytest.mark.parametrize("encoding", COLOUR_ENCODINGS)
def test_a_flat_grey_stays_grey_in_every_encoding(encoding):
    per_pixel = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4}.get(encoding, 2 if "yuy" in encoding else 1)
    if encoding in ("yuv422", "uyvy", "yuv422_yuy2", "yuyv"):
        per_pixel = 2
    data = np.full(8 * 8 * per_pixel, 128, np.uint8)
    rgb = decode_colour(encoding, 8, 8, 8 * per_pixel, data)
    assert np.abs(rgb.astype(int) - rgb[0, 0, 0]).max() == 0
