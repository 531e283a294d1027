"""Images as others' drivers publish them: QoS over DDS, stamps, formats (docs/cameras.md)."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image
from support.node_processes import Listener

from openvla_ros.preprocessing.image_encoding import encode_jpeg
from openvla_ros.profile import load_profile
from openvla_ros.ros import qos
from openvla_ros.ros.image_messages import from_compressed_image
from openvla_ros.streams.buffer import ObservationBuffer, Refusal

PROFILE = load_profile("sim_widowx")
CAMERA = PROFILE.cameras[0]
SECOND = 1_000_000_000
IMAGE = np.zeros((4, 6, 3), np.uint8)
# realsense-ros 4.56.1: SYSTEM_DEFAULT, or what color_qos names; usb_cam 0.8.1: rclcpp::QoS{100}.
OFFERS = {
    "realsense SYSTEM_DEFAULT": QoSProfile(
        history=HistoryPolicy.SYSTEM_DEFAULT, reliability=ReliabilityPolicy.SYSTEM_DEFAULT, depth=0
    ),
    "realsense SENSOR_DATA": qos_profile_sensor_data,
    "usb_cam": QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE),
}


@pytest.mark.ros
@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
def test_the_policys_subscription_matches_every_driver(ros_domain, offer):
    with Listener("driver") as driver, Listener("reader") as reader:
        images = reader.collect(Image, "color/image_raw", qos.NEWEST_IN)
        publisher = driver.node.create_publisher(Image, "color/image_raw", offer)
        number = 0

        def arrived():
            nonlocal number
            number += 1
            publisher.publish(Image(height=1, width=1, step=number))
            return images

        assert reader.spin_until(arrived)


def seen_after(hours, drift_ppm):
    """The moment with an image of a camera whose clock runs too fast since its driver started."""
    buffer = ObservationBuffer(PROFILE)
    now_ns = round((1000 + 3600 * hours) * SECOND)
    stamp_ns = now_ns + round(3600 * hours * drift_ppm * 1e-6 * SECOND)
    names = (*PROFILE.arm.joints, PROFILE.gripper.joint)
    buffer.put_joint_state(min(stamp_ns, now_ns), names, [0.0] * 6 + [0.02])
    buffer.put_image(CAMERA.name, stamp_ns, lambda: IMAGE)
    return buffer.moment("go", now_ns)


def test_a_camera_clock_that_drifts_is_used_within_the_limit_and_then_refused_with_the_time():
    assert CAMERA.max_age_s == 0.5
    assert not isinstance(seen_after(hours=1, drift_ppm=50), Refusal)
    ahead = seen_after(hours=8, drift_ppm=50)
    assert (ahead.reason, "1.440 s ahead of this computer's clock" in ahead.detail) == ("future_image", True)
    behind = seen_after(hours=8, drift_ppm=-50)
    assert (behind.reason, "1.440 s old" in behind.detail) == ("stale_image", True)


@pytest.mark.parametrize("name", ["rgb8; jpeg compressed bgr8", "jpeg", "bgr8; jpeg compressed ", ""])
def test_the_bytes_say_what_an_image_is_not_the_field(name):
    flat = np.full((16, 16, 3), (30, 90, 160), np.uint8)
    message = CompressedImage(format=name)
    message.data.frombytes(encode_jpeg(flat, 95) + bytes(700_000))  # usb_cam's buffer
    assert np.abs(from_compressed_image(message).astype(int) - flat).max() <= 3
