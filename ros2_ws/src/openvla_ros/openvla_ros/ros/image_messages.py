"""Camera messages to arrays, for any driver's encoding, and arrays to our own camera's messages.

The usual encodings of robot cameras are decoded by ``image_encoding``. Others are passed to cv_bridge, which
supports more of them, if it is installed; if not, the error names the encoding and the supported ones.
"""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from openvla_ros.cameras.protocol import Intrinsics
from openvla_ros.data.bags import cdr
from openvla_ros.errors import InvalidValueError
from openvla_ros.preprocessing.image_encoding import (
    COLOUR_ENCODINGS,
    DEPTH_ENCODINGS,
    Depth,
    decode_colour,
    decode_compressed,
    decode_depth,
)
from openvla_ros.ros.messages import to_stamp
from openvla_ros.values.arrays import Image as ImageArray
from openvla_ros.values.arrays import read_only

try:
    from cv_bridge import CvBridge, CvBridgeError
except ImportError:
    CvBridge = None


def from_image(message: Image) -> ImageArray:
    """Return the image in ``message`` as uint8 (H, W, 3) RGB, read-only; ``rgb8`` without a copy.

    Raises ``InvalidValueError`` for an unsupported encoding or a wrong size.
    """
    if CvBridge is not None and message.encoding not in (*COLOUR_ENCODINGS, *DEPTH_ENCODINGS):
        return _from_image_with_cv_bridge(message)
    return decode_colour(message.encoding, message.height, message.width, message.step, message.data)


def from_depth_image(message: Image) -> Depth:
    """Return the depth in ``message`` as float32 (H, W) metres, NaN where there is no measurement."""
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


def from_serialised(type_name: str, message: bytes) -> ImageArray:
    """Return the image in a serialised Image or CompressedImage, from a raw subscription.

    Decodes like the bag reader, in place: ``rgb8`` without a copy.
    """
    if (
        CvBridge is not None
        and type_name == cdr.IMAGE
        and cdr.parse_image(message).encoding not in COLOUR_ENCODINGS
    ):
        return from_image(deserialize_message(message, Image))
    return cdr.decode_image(type_name, message)


def to_depth_image(depth: Depth, stamp_ns: int, frame_id: str) -> Image:
    """Return depth (H, W) in metres as a ``16UC1`` message in millimetres, 0 for no measurement.

    The encoding of RealSense and OpenNI drivers; beyond 65.535 m it is 0.
    """
    millimetres = np.round(np.nan_to_num(depth, nan=0.0, posinf=0.0, neginf=0.0) * 1e3)
    counts = np.where((millimetres >= 0) & (millimetres <= 65535), millimetres, 0).astype("<u2")
    height, width = counts.shape
    message = Image(height=height, width=width, encoding="16UC1", is_bigendian=0, step=2 * width)
    message.header = Header(stamp=to_stamp(stamp_ns), frame_id=frame_id)
    message.data = array.array("B", counts.tobytes())
    return message


def to_compressed_image(data: bytes, format_name: str, stamp_ns: int, frame_id: str) -> CompressedImage:
    """Return a JPEG or PNG file in memory as a message."""
    header = Header(stamp=to_stamp(stamp_ns), frame_id=frame_id)
    return CompressedImage(header=header, format=format_name, data=array.array("B", data))


def to_camera_info(
    intrinsics: Intrinsics | None, width: int, height: int, stamp_ns: int, frame_id: str
) -> CameraInfo:
    """Return the intrinsics as a message; without them all zeros, which in ROS means "not calibrated"."""
    message = CameraInfo(header=Header(stamp=to_stamp(stamp_ns), frame_id=frame_id))
    message.width, message.height = width, height
    if intrinsics is not None:
        message.distortion_model = intrinsics.distortion_model
        message.d = [float(v) for v in intrinsics.distortion]
        message.k = [float(v) for v in intrinsics.matrix.ravel()]
        message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        message.p = [float(v) for row in intrinsics.matrix for v in (*row, 0.0)]
    return message


def _from_image_with_cv_bridge(message: Image) -> ImageArray:
    try:
        array: Any = CvBridge().imgmsg_to_cv2(message, desired_encoding="rgb8")
    except CvBridgeError as error:
        raise InvalidValueError(
            f"image encoding {message.encoding!r} is not supported, not even by cv_bridge: {error}"
        ) from error
    return read_only(np.ascontiguousarray(array, dtype=np.uint8))
