"""openpi's messages: what goes out comes back, and its own form is what is written."""

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openvla_ros.errors import InvalidValueError
from openvla_ros.protocols import message_codec


@given(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(-(2**63), 2**63), st.none()), max_size=4))
def test_a_message_survives(message):
    array = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    after = message_codec.unpack(message_codec.pack({**message, "an array": array}))
    np.testing.assert_array_equal(after.pop("an array"), array)
    assert after == {key: value for key, value in message.items() if key != "an array"}


def test_arrays_are_written_as_openpi_reads_them():
    written = msgpack.unpackb(message_codec.pack({"a": np.array([[1, 2]], np.uint8)}))["a"]
    assert written == {b"__ndarray__": True, b"data": b"\x01\x02", b"dtype": "|u1", b"shape": [1, 2]}


def test_a_numpy_scalar_is_a_number():
    scalar = {b"__npgeneric__": True, b"data": 0.5, b"dtype": "<f4"}
    assert message_codec.unpack(msgpack.packb({"x": scalar})) == {"x": 0.5}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("text", "expected a binary message"),
        (b"", "cannot decode"),
        (b"\xc1", "cannot decode"),
        (msgpack.packb([1]), "expected a map"),
        (msgpack.packb({b"key": 1}), "expected a map with text keys"),
        (msgpack.packb({"a": {b"__ndarray__": True}}), "an array of type None"),
        (msgpack.packb({"a": {b"__npgeneric__": True, b"data": "x"}}), "must be a number"),
        (b"\xdd\xff\xff\xff\xff", "cannot decode"),  # a list of four billion values that are not there
        (b"\x91" * 5000, "cannot decode"),
    ],
)
def test_rubbish_is_refused(data, message):
    with pytest.raises(InvalidValueError, match=message):
        message_codec.unpack(data)


@pytest.mark.parametrize("value", [object(), np.array(["text"]), np.array([1 + 2j])])
def test_what_the_protocol_lacks_is_not_written(value):
    with pytest.raises(InvalidValueError, match="cannot serialise"):
        message_codec.pack({"a": value})
