"""The policy node with a policy slower than its camera: nothing queues, and the newest image is looked at."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from support.fake_policy_peers import Robot
from support.node_processes import DISCOVERY_S, NodeProcess
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.ros import qos
from openvla_ros.ros.messages import from_stamp

pytestmark = pytest.mark.ros


SLOW_POLICY = """
import time
from openvla_ros.nodes import policy_node
from openvla_ros.policy.hold import HoldPolicy

class Slow(HoldPolicy):
    def infer(self, observation):
        time.sleep(INFERENCE_S)
        return super().infer(observation)

policy_node.load_policy = lambda options, profile, scene: Slow(profile.space())
policy_node.main()
"""


def slow_policy(inference_s, **parameters):
    return NodeProcess(SLOW_POLICY.replace("INFERENCE_S", str(inference_s)), parameters)


def ages_of_chunks(robot):
    """The list into which each chunk's age goes: how many images were published after its own."""
    ages = []

    def note(message):
        ages.append(sum(stamp > from_stamp(message.header.stamp) for stamp in robot.seen))

    robot.node.create_subscription(JointTrajectory, "policy/action_chunk", note, qos.COMMAND)
    return ages


def resident_mb(process):
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_with_a_fast_camera_and_a_slow_policy_nothing_queues_and_memory_stays_flat(ros_domain):
    # Large images, all of them offered: a queue of them would show in age and memory at once.
    with Robot(camera_hz=30.0) as robot, slow_policy(0.4, rate_hz=1000.0) as node:
        robot.image = np.zeros((480, 640, 3), np.uint8)
        ages = ages_of_chunks(robot)
        robot.say("wait")
        assert robot.spin_until(lambda: len(ages) >= 5), node.output
        before = resident_mb(node.process)
        assert robot.spin_until(lambda: len(ages) >= 20), node.output
        assert resident_mb(node.process) - before < 10.0
        # What it looked at was the newest image: those of its 0.4 s have come since, and a few more.
        assert np.median(ages) < 0.4 * 30 + 5
        values = {v.key: v.value for v in robot.status("task").values}
        assert int(values["superseded"]) > 5


def test_a_policy_slower_than_its_rate_looks_at_the_newest_image_not_at_the_one_that_was_due(ros_domain):
    # Due once a second, taken after one and a half: the image that was due is half a second old by then.
    with Robot(camera_hz=30.0) as robot, slow_policy(1.5, rate_hz=1.0) as node:
        ages = ages_of_chunks(robot)
        robot.say("wait")
        assert robot.spin_until(lambda: len(ages) >= 6, 2 * DISCOVERY_S), node.output
        # Of the first, and of the one that was due while it was looked at, nobody knows how they began.
        assert np.median(ages[2:]) < 1.5 * 30 + 10, ages


def test_a_node_that_is_stopped_while_it_infers_holds_and_sends_no_chunk_afterwards(ros_domain):
    with Robot(camera_hz=30.0) as robot, slow_policy(1.0) as node:
        robot.say("wait")
        assert robot.spin_until(lambda: len(robot.chunks) >= 1), node.output
        robot.spin_for(0.3)  # in the middle of the next one
        count = len(robot.chunks)
        node.process.send_signal(signal.SIGTERM)
        assert robot.spin_until(lambda: "hold" in robot.calls), node.output
        assert robot.spin_until(lambda: node.process.poll() is not None), node.output
        assert len(robot.chunks) == count
        assert node.stop() == 0
    assert "Traceback" not in node.output
