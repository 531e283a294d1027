"""The policy node over DDS, between a stand-in for cameras and arm and a stand-in for the controller."""

import signal

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from support.fake_policy_peers import MODULE, PROFILE, Robot, policy
from support.node_processes import NodeProcess

from openvla_ros.ros.messages import from_chunk_message, from_stamp

pytestmark = pytest.mark.ros


def test_it_acts_on_the_instruction_topic_and_on_nothing_without_one(ros_domain):
    with Robot() as robot, policy() as node:
        assert robot.until_task_says("no instruction has been given"), node.output
        assert robot.chunks == []
        robot.say("lift the cube")
        assert robot.spin_until(lambda: len(robot.chunks) >= 5), node.output
        chunk = from_chunk_message(robot.chunks[-1], PROFILE.space(), PROFILE.action_frame_id())
        np.testing.assert_array_equal(chunk.actions, [[0, 0, 0, 0, 0, 0, 1]])
        stamps = [from_stamp(c.header.stamp) for c in robot.chunks]
        assert set(stamps) <= set(robot.seen)
        assert np.diff(stamps).min() >= 0.15e9  # 5 Hz of a 10 Hz camera, give or take half an image
        assert "ask_for_policy" in robot.calls
        assert robot.current[-1].data == "lift the cube"
        robot.say("")
        assert robot.spin_until(lambda: robot.calls[-1] == "hold" and robot.current[-1].data == "")
        robot.spin_for(0.3)
        count = len(robot.chunks)
        robot.spin_for(0.6)
        assert len(robot.chunks) == count
        robot.say("put it down")
        assert robot.spin_until(lambda: len(robot.chunks) > count)
        assert node.stop(signal.SIGINT) == 0
    assert "Traceback" not in node.output


@pytest.mark.parametrize(
    ("stream", "reason"), [("sees", "stale_image: camera 'primary'"), ("feels", "stale_state: joint state")]
)
def test_a_stream_that_stops_stops_the_policy_which_says_why(ros_domain, stream, reason):
    with Robot() as robot, policy() as node:
        robot.say("lift the cube")
        assert robot.spin_until(lambda: len(robot.chunks) >= 2), node.output
        setattr(robot, stream, False)
        assert robot.until_task_says(reason), node.output
        count = len(robot.chunks)
        robot.spin_for(0.6)
        assert len(robot.chunks) == count
        key = reason.split(":")[0]
        assert robot.spin_until(lambda: any(v.key == key for v in robot.status("refusals").values))
        setattr(robot, stream, True)
        assert robot.spin_until(lambda: len(robot.chunks) > count), node.output


def test_two_robots_on_one_machine_do_not_hear_each_other(ros_domain):
    def start(name):
        return NodeProcess(MODULE, {"policy": "hold"}, [f"__ns:=/{name}"])

    with Robot("left") as left, Robot("right") as right, start("left") as one, start("right") as two:
        assert left.until_task_says("no instruction"), one.output
        assert right.spin_until(lambda: right.node.count_subscribers("instruction") == 2), two.output
        left.say("lift the cube")
        assert left.spin_until(lambda: len(left.chunks) >= 3), one.output
        right.spin_for(0.5)
        assert right.chunks == []
