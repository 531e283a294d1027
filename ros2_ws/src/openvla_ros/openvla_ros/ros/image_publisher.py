"""Publishes images as ``rgb8`` through one message whose memory is reused."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rclpy.publisher import Publisher
from sensor_msgs.msg import Image

from openvla_ros.ros.messages import to_image, to_stamp
from openvla_ros.values.arrays import Image as ImageArray


class ImagePublisher:
    """Copies each image into the same message: rclpy has its own copy when ``publish`` returns."""

    def __init__(self, publisher: Publisher, frame_id: str) -> None:
        self.publisher, self._frame_id = publisher, frame_id
        self._message: Image | None = None
        self._pixels: NDArray[np.uint8] = np.zeros((0, 0, 3), np.uint8)  # a view of the message's data

    def publish(self, image: ImageArray, stamp_ns: int) -> None:
        """Publish a uint8 (H, W, 3) RGB image."""
        if self._message is None or self._pixels.shape != image.shape:
            self._message = to_image(image, stamp_ns, self._frame_id)
            self._pixels = np.frombuffer(self._message.data, np.uint8).reshape(image.shape)
        else:
            np.copyto(self._pixels, image)
            self._message.header.stamp = to_stamp(stamp_ns)
        self.publisher.publish(self._message)
