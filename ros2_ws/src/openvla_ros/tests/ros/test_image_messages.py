"""Camera messages become the same arrays as the core's decoder gives, both kinds of message."""

import copy

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from sensor_msgs.msg import CompressedImage, Image

from openvla_ros.errors import InvalidValueError
from openvla_ros.preprocessing.image_encoding import encode_jpeg
from openvla_ros.ros import image_messages, messages
from openvla_ros.ros.image_publisher import ImagePublisher

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


def test_what_we_publish_comes_back():
    message = messages.to_image(IMAGE, 5, "lens")
    np.testing.assert_array_equal(image_messages.from_image(message), IMAGE)


class FakeNode:
    """Makes publishers that keep what they are given; topics in ``watched`` have a subscriber."""

    def __init__(self, watched=()):
        self.sent, self._watched = {}, watched

    def create_publisher(self, _kind, topic, _qos):
        kept = self.sent[topic] = []

        class Publisher:
            def publish(_, message):  # noqa: N805
                kept.append(copy.deepcopy(message))

            def get_subscription_count(_):  # noqa: N805
                return int(topic in self._watched)

        return Publisher()


def test_the_reused_message_carries_each_image_and_stamp_and_follows_a_new_size():
    node = FakeNode()
    publisher = ImagePublisher(node, "image", "lens")
    images = [IMAGE, 255 - IMAGE, IMAGE[:4], IMAGE[::-1]]
    for stamp, image in enumerate(images):
        publisher.publish(image, stamp)
    for stamp, image in enumerate(images):
        message = node.sent["image"][stamp]
        assert messages.from_stamp(message.header.stamp) == stamp
        np.testing.assert_array_equal(image_messages.from_image(message), image)
    assert node.sent["image/compressed"] == []  # nobody wants it


def test_whoever_subscribes_to_it_is_sent_the_same_image_compressed():
    node = FakeNode(watched=("image/compressed",))
    flat = np.full((16, 16, 3), (30, 90, 160), np.uint8)
    ImagePublisher(node, "image", "lens", lambda: 90).publish(flat, 5)
    (raw,), (jpeg,) = node.sent["image"], node.sent["image/compressed"]
    assert raw.header == jpeg.header
    assert np.abs(image_messages.from_compressed_image(jpeg).astype(int) - flat).max() <= 3


def test_a_padded_big_endian_depth_message():
    millimetres = np.array([[1500, 0]], ">u2")
    message = Image(height=1, width=2, encoding="16UC1", is_bigendian=1, step=6)
    message.data.frombytes(millimetres.tobytes() + b"\xff\xff")
    depth = image_messages.from_depth_image(message)
    np.testing.assert_array_equal(depth, np.array([[1.5, np.nan]], np.float32))


def test_a_compressed_message():
    flat = np.full((16, 16, 3), (30, 90, 160), np.uint8)
    message = CompressedImage(format="jpeg")
    message.data.frombytes(encode_jpeg(flat, 95))
    assert np.abs(image_messages.from_compressed_image(message).astype(int) - flat).max() <= 3


@pytest.mark.skipif(image_messages.CvBridge is not None, reason="cv_bridge knows more encodings")
def test_an_unknown_encoding_is_named_with_the_choices():
    with pytest.raises(InvalidValueError, match=r"'nv21'.*rgb8, bgr8"):
        image_messages.from_image(Image(height=2, width=2, step=2, encoding="nv21"))
