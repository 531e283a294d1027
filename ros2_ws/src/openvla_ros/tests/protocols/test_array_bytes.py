"""Arrays of others: exact where they are arrays, an error before anything is made of the rest."""

import numpy as np
import pytest

from openvla_ros.errors import InvalidValueError
from openvla_ros.protocols.array_bytes import DTYPES, array_from_bytes, image_from_array

IMAGE = np.random.default_rng(1).integers(0, 256, (4, 6, 3), np.uint8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)])
def test_an_array_comes_back_as_it_was(dtype, shape):
    before = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    after = array_from_bytes(before.dtype.str, list(shape), before.tobytes())
    assert after.dtype == before.dtype
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize(
    ("dtype", "shape", "data", "message"),
    [
        ("|O", [1], b"12345678", "the choices are"),
        ("<U4", [1], b"12345678", "the choices are"),
        (["<f4"], [1], b"1234", "the choices are"),
        (None, [1], b"1234", "the choices are"),
        ("|u1", [2**62, 4], b"", "takes 18446744073709551616 bytes; got 0"),
        ("|u1", [-1], b"1", "list of lengths"),
        ("|u1", [True], b"1", "list of lengths"),
        ("|u1", "3", b"123", "list of lengths"),
        ("|u1", [1] * 40, b"1", "at most 8"),
        ("<f4", [2], b"1234", "takes 8 bytes; got 4"),
        ("<f4", [1], "1234", "got str"),
    ],
)
def test_what_is_no_array_is_refused(dtype, shape, data, message):
    with pytest.raises(InvalidValueError, match=message):
        array_from_bytes(dtype, shape, data)


FLOATS = np.minimum((IMAGE + 0.5) / 255.0, 1.0)  # halves, so that no rounding decides what is cut off


@pytest.mark.parametrize("sent", [IMAGE, np.moveaxis(IMAGE, 2, 0), FLOATS, FLOATS.astype(np.float32)])
def test_an_image_is_taken_in_every_form_that_openpi_takes(sent):
    np.testing.assert_array_equal(image_from_array("image", sent), IMAGE)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ("image", "must be an image"),
        (np.zeros((4, 4), np.uint8), "must be an image"),
        (np.zeros((4, 4, 4), np.uint8), "must be an image"),
        (np.zeros((4, 4, 3), np.int64), "must be uint8"),
        (np.full((4, 4, 3), 255.0), "outside 0 .. 1"),
        (np.full((4, 4, 3), np.nan), "outside 0 .. 1"),
        (np.zeros((0, 4, 3), np.float32), "outside 0 .. 1"),
    ],
)
def test_what_is_no_image_is_refused(sent, message):
    with pytest.raises(InvalidValueError, match=message):
        image_from_array("image", sent)
