"""TensorFlow's image arithmetic: crop, Lanczos, JPEG and colour, pixel for pixel."""

import ctypes
import io
import platform

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from support.golden_numbers import ROOT, camera_image, image_operations

from openvla_ros.errors import InvalidValueError
from openvla_ros.preprocessing.augmentation import Augmentation, AugmentationDraw
from openvla_ros.preprocessing.tf_image_ops import _sine, crop_and_resize, crop_center, resize_lanczos
from openvla_ros.preprocessing.tf_jpeg import jpeg_round_trip

GOLDEN = image_operations()
SIDE = float(np.sqrt(np.float32(0.9)))
CROP = (0.03, 0.01, 0.03 + SIDE, 0.01 + SIDE)  # of crop_y0.03_x0.01
SMALL = arrays(np.uint8, st.tuples(st.integers(2, 9), st.integers(2, 9), st.just(3)))


def kept(suffix):
    """The images that the reference set at hand has this operation for."""
    return [name.split("_")[0] for name in GOLDEN if name.endswith(suffix) and GOLDEN[name].size]


def colour_operations():
    kinds = ("brightness", "contrast", "saturation", "hue")
    return [name for name in GOLDEN if name.split("_")[1] in kinds]


def test_the_center_crop_equals_tensorflows():
    with Image.open(ROOT / "images" / "01.crop.png") as expected:
        np.testing.assert_array_equal(crop_center(camera_image(1)), np.asarray(expected.convert("RGB")))
    for name in kept("_center_crop_of_lanczos224"):
        np.testing.assert_array_equal(
            crop_center(GOLDEN[f"{name}_lanczos224"]), GOLDEN[f"{name}_center_crop_of_lanczos224"]
        )


@pytest.mark.parametrize("name", kept("_lanczos224"))
def test_lanczos_equals_tensorflows(name):
    index = int(name.removeprefix("img"))
    np.testing.assert_array_equal(resize_lanczos(camera_image(index)), GOLDEN[f"{name}_lanczos224"])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="compares with glibc's sinf")
def test_sines_equal_the_c_librarys():
    sinf = ctypes.CDLL(None).sinf
    sinf.restype, sinf.argtypes = ctypes.c_float, [ctypes.c_float]
    angles = np.random.default_rng(0).uniform(0.0, 3.2 * np.pi, 20_000).astype(np.float32)
    expected = np.array([sinf(float(angle)) for angle in angles], np.float32)
    np.testing.assert_array_equal(_sine(angles), expected)


@pytest.mark.parametrize("name", kept("_jpeg_decoded_tf"))
def test_the_jpeg_round_trip_equals_tensorflows(name):
    index = int(name.removeprefix("img"))
    np.testing.assert_array_equal(jpeg_round_trip(camera_image(index)), GOLDEN[f"{name}_jpeg_decoded_tf"])


@pytest.mark.parametrize("name", kept("_libero_resize224"))
def test_the_libero_preparation_equals_the_originals(name):
    # As in OpenVLA's LIBERO evaluation, but for the turn by 180 degrees, which the golden image has not.
    prepared = resize_lanczos(jpeg_round_trip(camera_image(int(name.removeprefix("img")))), (224, 224))
    np.testing.assert_array_equal(prepared, GOLDEN[f"{name}_libero_resize224"])


@pytest.mark.parametrize("name", colour_operations())
def test_colour_operations_equal_tensorflows(name):
    image, kind, factor = name.split("_")
    draw = AugmentationDraw(**{kind: float(factor)})
    np.testing.assert_array_equal(draw(GOLDEN[f"{image}_lanczos224"]), GOLDEN[name])


@pytest.mark.parametrize("name", kept("_crop_y0.03_x0.01"))
def test_the_augmentation_crop_equals_tensorflows(name):
    expected = GOLDEN[f"{name}_crop_y0.03_x0.01"]
    np.testing.assert_array_equal(AugmentationDraw(crop=CROP)(GOLDEN[f"{name}_lanczos224"]), expected)


@pytest.mark.parametrize("name", kept("_h0.03"))
def test_the_augmentation_chain_equals_tensorflows(name):
    draw = AugmentationDraw(crop=CROP, brightness=-0.1, contrast=1.1, saturation=0.9, hue=0.03)
    expected = GOLDEN[f"{name}_aug_chain_crop(y.03,x.01)_b-0.1_c1.1_s0.9_h0.03"]
    np.testing.assert_array_equal(draw(GOLDEN[f"{name}_lanczos224"]), expected)


@settings(deadline=None, max_examples=30)
@given(st.integers(3, 60), st.integers(5, 60), st.sampled_from([50, 75, 95]), st.integers(0, 99))
def test_the_jpeg_round_trip_stays_near_pillows(height, width, quality, seed):
    """Pillow's decoder has the accurate inverse DCT: the same image within that DCT's error."""
    low = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(low).resize((width, height), Image.Resampling.BILINEAR))
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(file) as decoded:
        difference = jpeg_round_trip(image, quality).astype(int) - np.asarray(decoded)
    assert np.abs(difference).max() <= 24
    assert np.abs(difference).mean() <= 6


@given(SMALL)
def test_nothing_to_do_changes_nothing(image):
    np.testing.assert_array_equal(AugmentationDraw()(image), image)
    np.testing.assert_array_equal(crop_center(image, 1.0, image.shape[:2]), image)
    np.testing.assert_array_equal(resize_lanczos(image, image.shape[:2]), image)


@settings(deadline=None)
@given(SMALL, st.integers(0, 2**32 - 1))
def test_a_draw_keeps_shape_and_type_and_depends_only_on_the_seed(image, seed):
    first = Augmentation().draw(np.random.default_rng(seed))
    assert first == Augmentation().draw(np.random.default_rng(seed))
    before = image.copy()
    out = first(image)
    assert (out.dtype, out.shape) == (np.uint8, image.shape)
    np.testing.assert_array_equal(image, before)


def test_draws_keep_to_their_ranges():
    random = np.random.default_rng(5)
    draws = [Augmentation().draw(random) for _ in range(500)]
    crops = np.array([draw.crop for draw in draws])
    np.testing.assert_array_equal(crops[:, 0], crops[:, 1])  # as the original: on the diagonal
    np.testing.assert_allclose(crops[:, 2] - crops[:, 0], np.sqrt(0.9))
    assert crops.min() >= 0.0
    assert crops.max() <= 1.0
    assert np.ptp(crops[:, 0]) > 0.9 * (1 - np.sqrt(0.9))
    for name, low, high in (
        ("brightness", -0.2, 0.2), ("contrast", 0.8, 1.2), ("saturation", 0.8, 1.2), ("hue", -0.05, 0.05),
    ):  # fmt: skip
        values = [getattr(draw, name) for draw in draws]
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high
    free = [Augmentation(diagonal_crops=False, crop_ratio=(0.9, 1.1)).draw(random).crop for _ in range(50)]
    assert len({crop[0] == crop[1] for crop in free}) == 1
    assert free[0][0] != free[0][1]
    assert Augmentation(crop_area=None).draw(random).crop is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"crop_area": (0.9, 1.1)}, r"crop_area \(0.9, 1.1\) must not exceed 1"),
        ({"contrast": (1.2, 0.8)}, "contrast .* smaller first"),
        ({"crop_ratio": (0.0, 1.0)}, "crop_ratio .* above 0"),
        ({"hue": 0.7}, "hue 0.7 .* 0 .. 0.5"),
        ({"brightness": -0.1}, "brightness -0.1"),
    ],
)
def test_impossible_augmentation_is_refused(changes, expected):
    with pytest.raises(InvalidValueError, match=expected):
        Augmentation(**changes)


def test_impossible_crops_and_qualities_are_refused():
    pixels = np.zeros((4, 4, 3), np.float32)
    with pytest.raises(InvalidValueError, match=r"must lie within 0 \.\. 1"):
        crop_and_resize(pixels, (0.1, 0.0, 1.1, 1.0), (4, 4))
    with pytest.raises(InvalidValueError, match="crop area is 0"):
        crop_center(camera_image(2), 0.0)
    with pytest.raises(InvalidValueError, match="quality is 101"):
        jpeg_round_trip(camera_image(2), 101)
