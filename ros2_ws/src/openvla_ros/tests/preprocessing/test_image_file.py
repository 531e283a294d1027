"""Image files of every kind: the stored pixels, or a reason that names the file."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image as PILImage

from openvla_ros.errors import InvalidValueError
from openvla_ros.integrity.image_size import MOST_PIXELS
from openvla_ros.preprocessing.image_encoding import decode_compressed, encode_jpeg, encode_png
from openvla_ros.preprocessing.image_file import read_image

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def saved(path, mode="RGB", **options):
    PILImage.fromarray(IMAGE).convert(mode).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.ppm", "a.tga"])
def test_lossless_formats_are_exact(tmp_path, name):
    assert np.array_equal(read_image(saved(tmp_path / name)), IMAGE)


@pytest.mark.parametrize("name", ["RGBA.png", "L.png", "1.png", "P.png", "LA.png", "CMYK.jpg", "CMYK.tiff"])
def test_other_colour_modes_are_what_the_original_reads(tmp_path, name):
    """The original (openvla c8f03f48) is given ``Image.open(path).convert("RGB")``."""
    path = saved(tmp_path / name, name.split(".")[0])
    with PILImage.open(path) as image:
        assert np.array_equal(read_image(path), np.asarray(image.convert("RGB")))


def test_sixteen_bit_colour_keeps_the_upper_byte(tmp_path):
    rows = np.zeros((2, 1 + 3 * 6), np.uint8)
    rows[:, 1:] = np.arange(18, dtype=np.uint8) * 10
    header = struct.pack(">IIBBBBB", 3, 2, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b""))
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert read_image(tmp_path / "a.png")[0].ravel().tolist() == list(range(0, 180, 20))


@pytest.mark.parametrize(
    ("values", "name"), [(np.uint16, "a.png"), (np.float32, "a.tiff"), (np.int32, "a.tiff")]
)
def test_deep_grey_is_refused(tmp_path, values, name):
    """PIL would clip it: all of a depth image beyond 255 mm would be white."""
    PILImage.fromarray(np.full((4, 4), 900, values)).save(tmp_path / name)
    with pytest.raises(InvalidValueError, match=rf"{name} has more than 8 bits per sample \(mode (I|F)"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tiff"])
def test_several_images_in_one_file_are_refused(tmp_path, name):
    others = [PILImage.fromarray(255 - IMAGE)]
    PILImage.fromarray(IMAGE).save(tmp_path / name, save_all=True, append_images=others)
    with pytest.raises(InvalidValueError, match=f"{name} contains 2 images; save the one to use on its own"):
        read_image(tmp_path / name)


def test_an_image_that_a_viewer_would_turn_is_refused(tmp_path):
    for orientation in (1, 6):
        exif = PILImage.Exif()
        exif[0x0112] = orientation
        saved(tmp_path / f"{orientation}.jpg", exif=exif)
    assert read_image(tmp_path / "1.jpg").shape == IMAGE.shape
    with pytest.raises(
        InvalidValueError, match=r"6\.jpg is stored rotated or mirrored \(EXIF orientation 6\)"
    ):
        read_image(tmp_path / "6.jpg")


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_too_many_pixels_are_refused_with_the_limit(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    data = bytearray(saved(path).read_bytes())
    at, order = (16, ">") if suffix == "png" else (18, "<")
    data[at : at + 8] = struct.pack(f"{order}II", 20_000, 10_000)
    path.write_bytes(data)
    with pytest.raises(InvalidValueError, match=rf"a\.{suffix}.*the limit is {MOST_PIXELS} pixels"):
        read_image(path)


@pytest.mark.filterwarnings("error")
def test_large_images_below_the_limit_do_not_warn(tmp_path, monkeypatch):
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", IMAGE.shape[0] * IMAGE.shape[1] - 1)
    assert np.array_equal(read_image(saved(tmp_path / "a.png")), IMAGE)


def test_a_truncated_jpeg_is_refused_wherever_it_comes_from(tmp_path):
    data = encode_jpeg(np.tile(IMAGE, (8, 8, 1)), 90)
    assert decode_compressed("jpeg", data + bytes(5000)).shape == (160, 240, 3)  # padded by a camera
    with pytest.raises(InvalidValueError, match="'jpeg' is a truncated JPEG of"):
        decode_compressed("jpeg", data[: len(data) // 2])
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(InvalidValueError, match=r"a\.jpg is not a readable image"):
        read_image(tmp_path / "a.jpg")


def test_a_truncated_png_is_refused_wherever_it_comes_from(tmp_path):
    data = encode_png(IMAGE)[:-40]
    with pytest.raises(InvalidValueError):
        decode_compressed("png", data)
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(InvalidValueError, match=r"a\.png is not a readable image"):
        read_image(tmp_path / "a.png")
