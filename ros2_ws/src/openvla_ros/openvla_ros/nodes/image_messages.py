"""Camera messages to arrays, whatever the driver's encoding.

The encodings that cameras for robots use are decoded by ``image_encoding``, the same everywhere.
One that it does not know goes to cv_bridge where that is installed, which knows more of them;
where it is not, the error names the encoding and those that can be read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from openvla_ros.arrays import Image as ImageArray
from openvla_ros.arrays import read_only
from openvla_ros.errors import InvalidValueError
from openvla_ros.image_encoding import (
    COLOUR_ENCODINGS,
    DEPTH_ENCODINGS,
    Depth,
    decode_colour,
    decode_compressed,
    decode_depth,
)

try:
    from cv_bridge import CvBridge, CvBridgeError
except ImportError:
    CvBridge = None


def from_image(message: Image) -> ImageArray:
    """Return the picture in ``message`` as uint8 (H, W, 3) RGB, read-only; ``rgb8`` without a copy.

    Raises ``InvalidValueError`` naming the encoding, or the size that does not fit it.
    """
    if CvBridge is not None and message.encoding not in (*COLOUR_ENCODINGS, *DEPTH_ENCODINGS):
        return _from_image_with_cv_bridge(message)
    return decode_colour(message.encoding, message.height, message.width, message.step, message.data)


def from_depth_image(message: Image) -> Depth:
    """Return the depth in ``message`` as float32 (H, W) metres, NaN where nothing was measured."""
    return decode_depth(
        message.encoding,
        message.height,
        message.width,
        message.step,
        bool(message.is_bigendian),
        message.data,
    )


def from_compressed_image(message: CompressedImage) -> ImageArray:
    """Return the JPEG or PNG in ``message`` as uint8 (H, W, 3) RGB, read-only."""
    return decode_compressed(message.format, message.data)


def _from_image_with_cv_bridge(message: Image) -> ImageArray:
    try:
        array: Any = CvBridge().imgmsg_to_cv2(message, desired_encoding="rgb8")
    except CvBridgeError as error:
        raise InvalidValueError(
            f"image encoding {message.encoding!r} cannot be read, by cv_bridge neither: {error}"
        ) from error
    return read_only(np.ascontiguousarray(array, dtype=np.uint8))
