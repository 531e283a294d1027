"""Serialised camera messages are read as rclpy reads them, without a copy; damaged ones are refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from openvla_ros.data.bags import cdr
from openvla_ros.errors import InvalidValueError
from openvla_ros.preprocessing.image_encoding import encode_jpeg
from openvla_ros.ros.image_messages import from_serialised
from openvla_ros.ros.messages import to_image, to_stamp

words = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=9)
stamps = st.integers(0, 2**31 * 10**9 - 1)


@given(words, words, stamps, st.binary(max_size=40), st.integers(0, 1))
@settings(max_examples=150, deadline=None)
def test_every_field_of_an_image(frame_id, encoding, stamp_ns, data, big_endian):
    message = Image(
        header=Header(stamp=to_stamp(stamp_ns), frame_id=frame_id), height=3, width=70_000, step=9,
        encoding=encoding, is_bigendian=big_endian,
    )  # fmt: skip
    message.data.frombytes(data)
    serialised = serialize_message(message)
    found = cdr.parse_image(serialised)
    assert cdr.header_stamp_ns(serialised) == stamp_ns
    assert (found.height, found.width, found.step, found.encoding) == (3, 70_000, 9, encoding)
    assert bytes(found.data) == data


@given(words, words, st.binary(max_size=40))
@settings(max_examples=100, deadline=None)
def test_every_field_of_a_compressed_image(frame_id, format_name, data):
    message = CompressedImage(header=Header(frame_id=frame_id), format=format_name)
    message.data.frombytes(data)
    found, file = cdr.parse_compressed_image(serialize_message(message))
    assert (found, bytes(file)) == (format_name, data)


def test_images_are_decoded_from_where_they_lie():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    message = serialize_message(to_image(image, 1, "lens"))
    decoded = from_serialised(cdr.IMAGE, message)
    np.testing.assert_array_equal(decoded, image)
    assert np.shares_memory(decoded, np.frombuffer(message, np.uint8))
    flat = np.full((16, 16, 3), (30, 90, 160), np.uint8)
    compressed = CompressedImage(format="jpeg")
    compressed.data.frombytes(encode_jpeg(flat, 95))
    decoded = from_serialised(cdr.COMPRESSED_IMAGE, serialize_message(compressed))
    assert np.abs(decoded.astype(int) - flat).max() <= 3


def test_damaged_messages_are_refused():
    whole = serialize_message(to_image(np.zeros((4, 4, 3), np.uint8), 1, "lens"))
    for length in range(len(whole)):
        with pytest.raises(InvalidValueError, match=f"of {length} bytes is truncated"):
            from_serialised(cdr.IMAGE, whole[:length])
