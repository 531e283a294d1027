"""The one image transform: bit exact to the original processor, for every kind of camera image."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.golden_numbers import CASE_IDS, CASES, SETS, numbers

from openvla_ros.errors import CheckpointError, InvalidValueError
from openvla_ros.preprocessing.image_transform import ImageTransform, rotate, to_rgb


def config(folder=SETS[0], **changes):
    data = json.loads((folder / "checkpoint" / "preprocessor_config.json").read_text())
    return {**data, **changes}


def without_saved(strategy, **changes):
    """A config as the processor's constructor takes it, without the parameters that it saves."""
    data = {key: value for key, value in config().items() if not key.startswith("tvf_")}
    return ImageTransform.from_config({**data, "image_resize_strategy": strategy, **changes})


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("folder", "index", "case"), CASES, ids=CASE_IDS)
def test_pixels_equal_the_originals(folder, index, case):
    transform = ImageTransform.from_config(config(folder))
    with Image.open(folder / "images" / case["image"]) as image:
        pixels = transform(image, center_crop=case["center_crop"])
    golden = numbers(folder, index)["pixel_values"]
    assert pixels.dtype == golden.dtype == np.float32
    np.testing.assert_array_equal(pixels, golden)


def test_arrays_and_every_pil_mode_give_the_same_pixels():
    transform = ImageTransform.from_config(config())
    grey = random_image(48, 64)[:, :, 0]
    rgb = np.repeat(grey[:, :, None], 3, axis=2)
    alpha = np.concatenate([rgb, np.full((48, 64, 1), 255, np.uint8)], axis=2)
    expected = transform(rgb)
    for image in (grey, grey[:, :, None], alpha, rgb[:, ::-1][:, ::-1]):
        np.testing.assert_array_equal(transform(image), expected)
    for mode in ("L", "RGB", "RGBA", "LA"):
        np.testing.assert_array_equal(transform(Image.fromarray(rgb).convert(mode)), expected)


def test_saved_means_win_over_stated_ones():
    saved = ImageTransform.from_config(config())
    stated = without_saved("resize-naive")
    assert saved.towers[0].mean == (0.484375, 0.455078125, 0.40625)
    assert stated.towers[0].mean == (0.485, 0.456, 0.406)
    assert saved.towers[1] == stated.towers[1]


def test_without_saved_parameters_the_strategy_decides():
    assert without_saved("resize-naive").towers[0].size == (224, 224)
    crop = without_saved("resize-crop")
    assert (crop.towers[0].size, crop.letterbox_fill) == (224, None)
    letterbox = without_saved("letterbox", means=[[0.5] * 3, [0.485, 0.456, 0.406]])
    assert letterbox.letterbox_fill == (123, 116, 103)  # the last tower's means, truncated
    assert letterbox.size == (224, 224)
    plain = without_saved("letterbox", means=[[0.5] * 3] * 2)
    assert plain.letterbox_fill == (127, 127, 127)


def test_letterbox_centres_a_wide_image_on_its_colour():
    transform = without_saved("letterbox", means=[[0.5] * 3] * 2, stds=[[0.5] * 3] * 2)
    pixels = transform(np.full((100, 200, 3), 255, np.uint8))
    assert pixels.shape == (6, 224, 224)
    np.testing.assert_allclose(pixels[:, :50], (127 / 255 - 0.5) / 0.5, atol=1e-6)
    np.testing.assert_allclose(pixels[:, 62:162], 1.0, atol=1e-6)
    np.testing.assert_allclose(pixels, pixels[:, ::-1], atol=1e-6)


def test_resize_crop_keeps_the_aspect():
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 100:200] = 255  # the middle third is what remains
    pixels = without_saved("resize-crop", means=[[0.0] * 3] * 2, stds=[[1.0] * 3] * 2)(image)
    np.testing.assert_allclose(pixels[:, :, 8:-8], 1.0, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 300), st.integers(1, 300), st.sampled_from(["letterbox", "resize-crop", "resize-naive"])
)
def test_every_size_of_image_gives_the_same_shape(height, width, strategy):
    pixels = without_saved(strategy)(random_image(height, width))
    assert pixels.shape == (6, 224, 224)
    assert np.isfinite(pixels).all()
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("folder", SETS, ids=lambda folder: folder.name)
def test_the_description_reads_back_to_an_equal_transform(folder):
    transform = ImageTransform.from_config(config(folder))
    written = json.loads(json.dumps(transform.describe()))
    assert ImageTransform.from_description(written, "manifest") == transform
    written["towers"][0]["gamma"] = 1
    with pytest.raises(CheckpointError, match=r"manifest: towers\[0\]: gamma: .*unknown key"):
        ImageTransform.from_description(written, "manifest")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"image_resize_strategy": "squash"},
            "image_resize_strategy: .*resize-naive, letterbox, resize-crop.*squash",
        ),
        ({"input_sizes": []}, "input_sizes: .*one entry"),
        ({"input_sizes": [[3, 224, 200]] * 2}, "input_sizes: only square"),
        ({"means": [[0.5] * 3]}, "means: expected 2 entries"),
        ({"tvf_normalize_params": [{"mean": [0.5] * 2, "std": [1.0] * 3}] * 2}, "mean: expected 3 finite"),
        ({"tvf_normalize_params": [{"mean": [0.5] * 3, "std": [0.0] * 3}] * 2}, "std: .*above 0"),
        ({"tvf_resize_params": [{"size": [224, 224], "interpolation": 9}] * 2}, "9; the choices are nearest"),
        ({"tvf_crop_params": [{"output_size": [300, 300]}] * 2}, "larger than the resized image"),
        ({"tvf_do_letterbox": True, "tvf_letterbox_fill": [1, 2, 300]}, "within 0 .. 255.*300"),
    ],
)
def test_wrong_configs_name_the_key_the_value_and_the_choices(changes, expected):
    with pytest.raises(CheckpointError, match=f"(?s)pre.json: .*{expected}"):
        ImageTransform.from_config(config(**changes), "pre.json")


def test_a_missing_strategy_is_not_guessed():
    data = config()
    del data["image_resize_strategy"]
    with pytest.raises(CheckpointError, match=r"pre\.json: image_resize_strategy is missing; it has"):
        ImageTransform.from_config(data, "pre.json")


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8)])
def test_what_is_not_a_image_is_refused(image):
    with pytest.raises(InvalidValueError, match="must be uint8"):
        to_rgb(image)
    with pytest.raises(InvalidValueError, match="no pixels"):
        to_rgb(np.zeros((0, 4, 3), np.uint8))


def test_rotation_is_clockwise():
    image = random_image(2, 3)
    turned = rotate(image, 90)
    assert turned.shape == (3, 2, 3)
    np.testing.assert_array_equal(turned[0, -1], image[0, 0])  # top left moves to top right
    np.testing.assert_array_equal(rotate(image, 180), image[::-1, ::-1])
    np.testing.assert_array_equal(rotate(image, 0), image)
    for degrees in (0, 90, 180, 270):
        np.testing.assert_array_equal(rotate(rotate(image, degrees), 360 - degrees), image)
        assert rotate(image, degrees).flags.c_contiguous
    with pytest.raises(InvalidValueError, match="45 degrees; the choices are 0, 90, 180 and 270"):
        rotate(image, 45)
