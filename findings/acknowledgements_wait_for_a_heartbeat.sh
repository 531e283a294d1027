#!/usr/bin/env bash
# rclpy 9.1.2 (ROS 2 Kilted wheels) on Fast DDS: Publisher.wait_for_all_acked after one reliable message, which the
# subscription of another process has received within milliseconds, returns up to seconds later: the reader
# answers the writer's periodic heartbeat, not the message. A node that waits for its last command to be
# acknowledged before it ends has to allow for a heartbeat period (3 s by default), or it says that the command
# was lost when it was not.
#
# Seen on 2026-11-28 (twelve messages, each 0.37 s after the acknowledgement of the one before):
#   received after 0.001 to 0.009 s
#   acknowledged after 2.1 to 2.6 s, 12 later than 0.5 s
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'ros-rclpy[fastrtps]==9.1.2' 'ros-std-msgs==5.5.1'
export ROS_DOMAIN_ID=$((1 + RANDOM % 100)) ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
cat > "$folder/receiver.py" <<'PYTHON'
import time

import rclpy
from std_msgs.msg import Float64

rclpy.init()
node = rclpy.create_node("receiver")
late = []
node.create_subscription(Float64, "times", lambda message: late.append(time.time() - message.data), 10)
while len(late) < 12:
    rclpy.spin_once(node, timeout_sec=0.1)
print(f"received after {min(late):.3f} to {max(late):.3f} s", flush=True)
end = time.monotonic() + 4.0
while time.monotonic() < end:
    rclpy.spin_once(node, timeout_sec=0.1)
rclpy.shutdown()
PYTHON
"$folder/venv/bin/python" "$folder/receiver.py" &
"$folder/venv/bin/python" - <<'PYTHON'
import time

import rclpy
from rclpy.duration import Duration
from std_msgs.msg import Float64

rclpy.init()
node = rclpy.create_node("sender")
publisher = node.create_publisher(Float64, "times", 10)
end = time.monotonic() + 30
while not publisher.get_subscription_count() and time.monotonic() < end:
    rclpy.spin_once(node, timeout_sec=0.1)
assert publisher.get_subscription_count(), "nobody subscribed"
time.sleep(1.0)
waited = []
for _ in range(12):
    publisher.publish(Float64(data=time.time()))
    since = time.monotonic()
    assert publisher.wait_for_all_acked(Duration(seconds=10)), "not acknowledged within 10 s"
    waited.append(time.monotonic() - since)
    time.sleep(0.37)  # not in step with the heartbeat
print(f"acknowledged after {min(waited):.1f} to {max(waited):.1f} s,", sum(w > 0.5 for w in waited), "later than 0.5 s")
rclpy.shutdown()
assert max(waited) > 0.5, "the behaviour has changed: every message was acknowledged at once"
PYTHON
wait
