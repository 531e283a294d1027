#!/usr/bin/env bash
# rclpy 9.1.2 (ROS 2 Kilted wheels) on Fast DDS: a publisher and a subscription with default QoS match and
# exchange messages, but qos_check_compatible on the profiles that the graph reports for them answers ERROR,
# "Subscription has a deadline, but publisher does not": an endless deadline comes back from the endpoint
# information as a finite number, and is compared with the unset one of a QoSProfile made by hand. A check of a
# running graph therefore has to compare endpoint information with endpoint information.
#
# Seen on 2026-11-28:
#   received: hello
#   by hand against endpoint: ERROR ERROR: Subscription has a deadline, but publisher does not;ERROR: Subscription
#   has a liveliness lease duration, but publisher does not;
#   endpoint against endpoint: OK
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'ros-rclpy[fastrtps]==9.1.2' 'ros-std-msgs==5.5.1'
export ROS_DOMAIN_ID=$((1 + RANDOM % 100)) ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
"$folder/venv/bin/python" - <<'PYTHON'
import time

import rclpy
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from std_msgs.msg import String

rclpy.init()
node = rclpy.create_node("finding")
received = []
publisher = node.create_publisher(String, "words", 10)
node.create_subscription(String, "words", lambda message: received.append(message.data), 10)
end = time.monotonic() + 20
while not received and time.monotonic() < end:
    publisher.publish(String(data="hello"))
    rclpy.spin_once(node, timeout_sec=0.1)
assert received, "no message"
print("received:", received[0])
offered = node.get_publishers_info_by_topic("words")[0].qos_profile
asked = node.get_subscriptions_info_by_topic("words")[0].qos_profile
by_hand, why = qos_check_compatible(QoSProfile(depth=10), asked)
print("by hand against endpoint:", by_hand.name, why)
seen, why_not = qos_check_compatible(offered, asked)
print("endpoint against endpoint:", seen.name, why_not)
rclpy.shutdown()
assert by_hand == QoSCompatibility.ERROR, "the behaviour has changed: the profile made by hand is compatible"
assert "deadline" in why.lower(), "the behaviour has changed: another reason"
PYTHON
