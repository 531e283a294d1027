"""Where a JPEG ends: by its markers, whatever stands in it and after it."""

import io

import numpy as np
import pytest
from PIL import Image

from openvla_ros.integrity.jpeg_length import jpeg_length
from openvla_ros.preprocessing.image_encoding import decode_compressed

NOISE = Image.fromarray(np.random.default_rng(3).integers(0, 256, (72, 104, 3), np.uint8))


def jpeg(**options):
    file = io.BytesIO()
    NOISE.save(file, "JPEG", quality=90, **options)
    return file.getvalue()


KINDS = {
    "baseline": jpeg(),
    "progressive": jpeg(progressive=True),
    "restart markers": jpeg(restart_marker_blocks=4),
    "an end in a comment": jpeg(comment=b"\xff\xd9 is not the end \xff\xd8"),
    "grey": jpeg(subsampling=2),
}


@pytest.mark.parametrize("data", KINDS.values(), ids=KINDS)
def test_the_end_is_found_and_what_follows_it_does_not_matter(data):
    assert jpeg_length(data) == len(data)
    for tail in (b"\0" * 900_000, b"\7" * 70_000, data[500:], data):
        assert jpeg_length(memoryview(data + tail)) == len(data)
        np.testing.assert_array_equal(decode_compressed("jpeg", data + tail), decode_compressed("jpeg", data))


@pytest.mark.parametrize("data", KINDS.values(), ids=KINDS)
def test_a_cut_anywhere_is_no_end(data):
    for kept in (*range(0, 700, 7), len(data) // 2, len(data) - 2, len(data) - 1):
        assert jpeg_length(data[:kept]) is None
        assert jpeg_length(data[:kept] + b"\0" * 5000) is None


def test_a_cut_image_before_a_whole_one_is_no_end():
    data = KINDS["baseline"]
    assert jpeg_length(data[: len(data) // 2] + data) is None
