#!/usr/bin/env bash
# rclpy 9.1.2 (ROS 2 Kilted wheels) on Fast DDS 3.2.3, one machine, default transports: each subscriber that is
# killed (SIGKILL, out of memory) while messages arrive may keep a buffer of the publisher's shared memory for
# ever. With messages of 50 KB, ten fit in the default 512 KB: after about as many killed subscribers as that,
# `publish` goes on without an error and nobody receives anything any more, neither a subscriber that was there
# all the time nor a new one, until the publisher's process is started again. Small messages still arrive.
# A camera that "runs" and whose images nobody gets may have outlived its viewers; a larger segment (or UDP) only
# puts the moment off.
#
# Seen on 2026-11-29:
#   after 17 killed subscribers, silent for all: no message in 12 s, also not to the subscriber that stayed
# How many it takes varies: 4 in another run.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'ros-rclpy[fastrtps]==9.1.2' 'ros-std-msgs==5.5.1'
export ROS_DOMAIN_ID=$((1 + RANDOM % 100)) ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
unset FASTDDS_DEFAULT_PROFILES_FILE FASTRTPS_DEFAULT_PROFILES_FILE FASTDDS_BUILTIN_TRANSPORTS
cat > "$folder/node.py" <<'PYTHON'
import array
import sys
import time

import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import UInt8MultiArray

NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
rclpy.init()
node = rclpy.create_node(sys.argv[1])
if sys.argv[1] == "publisher":
    large, small = UInt8MultiArray(data=array.array("B", bytes(50_000))), UInt8MultiArray()
    images = node.create_publisher(UInt8MultiArray, "large", 30)
    states = node.create_publisher(UInt8MultiArray, "small", 10)
    node.create_timer(0.05, lambda: images.publish(large))
    node.create_timer(0.004, lambda: states.publish(small))
else:
    node.create_subscription(UInt8MultiArray, "large", lambda _: print(time.time(), flush=True), NEWEST)
    node.create_subscription(UInt8MultiArray, "small", lambda _: None, NEWEST)
rclpy.spin(node)
PYTHON
"$folder/venv/bin/python" - "$folder/node.py" <<'PYTHON'
import random
import subprocess
import sys
import threading
import time


class Node:
    def __init__(self, name):
        command = [sys.executable, sys.argv[1], name]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.heard = []
        threading.Thread(target=lambda: self.heard.extend(map(float, self.process.stdout)), daemon=True).start()

    def hears(self, count, seconds):
        end = time.monotonic() + seconds
        while len(self.heard) < count and time.monotonic() < end:
            time.sleep(0.02)
        return len(self.heard) >= count

    def kill(self):
        self.process.kill()
        self.process.wait()


publisher, stays = Node("publisher"), Node("stays")
assert stays.hears(5, 30), "the subscriber that stays hears nothing from the start"
silent_after, chance = None, random.Random(0)
for killed in range(60):
    subscriber = Node("is_killed")
    if not subscriber.hears(2, 12):
        silent_after = killed
        break
    time.sleep(chance.uniform(0.0, 0.3))
    subscriber.kill()
since = time.time() - stays.heard[-1]
subscriber.kill()
stays.kill()
publisher.kill()
assert silent_after is not None, "the behaviour has changed: messages still arrive after 60 killed subscribers"
assert since > 10.0, f"the subscriber that stayed heard a message {since:.1f} s ago"
print(f"after {silent_after} killed subscribers, silent for all: no message in 12 s,"
      " also not to the subscriber that stayed")
PYTHON
