"""Publishes images raw, through one message whose memory is reused, and as JPEG to whoever wants that."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from openvla_ros.preprocessing.image_encoding import encode_jpeg
from openvla_ros.ros import qos
from openvla_ros.ros.image_messages import to_compressed_image
from openvla_ros.ros.messages import to_image, to_stamp
from openvla_ros.values.arrays import Image as ImageArray

JPEG_QUALITY = 95


class ImagePublisher:
    """Publishes ``topic`` as ``rgb8`` and ``topic/compressed`` as JPEG, named as image_transport names them.

    rclpy has its own copy when ``publish`` returns. An image is encoded only while somebody subscribes to it.
    """

    def __init__(
        self, node: Node, topic: str, frame_id: str, quality: Callable[[], int] = lambda: JPEG_QUALITY
    ) -> None:
        self._node, self._frame_id, self._quality = node, frame_id, quality
        self._raw = node.create_publisher(Image, topic, qos.IMAGE_OUT)
        self._jpeg = node.create_publisher(CompressedImage, f"{topic}/compressed", qos.IMAGE_OUT)
        self._message: Image | None = None
        self._pixels: NDArray[np.uint8] = np.zeros((0, 0, 3), np.uint8)  # a view of the message's data

    @property
    def subscribers(self) -> int:
        """How many subscribe to either."""
        return int(self._raw.get_subscription_count() + self._jpeg.get_subscription_count())

    def publish(self, image: ImageArray, stamp_ns: int) -> None:
        """Publish a uint8 (H, W, 3) RGB image; raw first: a viewer does not delay the policy."""
        if self._message is None or self._pixels.shape != image.shape:
            self._message = to_image(image, stamp_ns, self._frame_id)
            self._pixels = np.frombuffer(self._message.data, np.uint8).reshape(image.shape)
        else:
            np.copyto(self._pixels, image)
            self._message.header.stamp = to_stamp(stamp_ns)
        self._raw.publish(self._message)
        if self._jpeg.get_subscription_count():
            data = encode_jpeg(image, self._quality())
            self._jpeg.publish(to_compressed_image(data, "jpeg", stamp_ns, self._frame_id))

    def destroy(self) -> None:
        """Destroy the publishers."""
        for publisher in (self._raw, self._jpeg):
            self._node.destroy_publisher(publisher)


class JpegPublisher:
    """Publishes ``topic`` itself as JPEG, for a profile whose camera is ``compressed``; else the same."""

    def __init__(self, node: Node, topic: str, frame_id: str, quality: Callable[[], int]) -> None:
        self._node, self._frame_id, self._quality = node, frame_id, quality
        self._jpeg = node.create_publisher(CompressedImage, topic, qos.IMAGE_OUT)

    @property
    def subscribers(self) -> int:
        """How many subscribe."""
        return int(self._jpeg.get_subscription_count())

    def publish(self, image: ImageArray, stamp_ns: int) -> None:
        """Publish a uint8 (H, W, 3) RGB image."""
        data = encode_jpeg(image, self._quality())
        self._jpeg.publish(to_compressed_image(data, "jpeg", stamp_ns, self._frame_id))

    def destroy(self) -> None:
        """Destroy the publisher."""
        self._node.destroy_publisher(self._jpeg)
