"""What becomes of an instruction when a process that carries it out dies, or stands still.

Every process is a real one; the policy's are killed and suspended. Nothing may move by itself after
the arm had to stop, and everybody is told why.
"""

import os
import signal

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from std_msgs.msg import String
from support.fake_policy_peers import Robot, policy
from support.python_process import start_python

pytestmark = pytest.mark.ros
# Longer than an inference of the fastest policy, after which it would have acted.
QUIET_S = 1.5


def acts(robot, count=3):
    robot.chunks.clear()
    return robot.spin_until(lambda: len(robot.chunks) >= count)


def check_it_waits(robot, node, why):
    """Check that nothing is sent, and that log, diagnostics and ``policy/instruction`` say that it waits."""
    assert robot.until_task_says("waiting for a new instruction"), node.output
    assert why in robot.status("task").message
    assert robot.status("task").level == DiagnosticStatus.WARN
    assert robot.spin_until(lambda: robot.current[-1].data == "", 10), robot.current[-1].data
    robot.chunks.clear()
    robot.spin_for(QUIET_S)
    assert robot.chunks == []
    assert why in node.output


def test_a_policy_that_was_killed_does_not_go_on_with_the_latched_instruction(ros_domain):
    with Robot() as robot:
        with policy() as node:
            robot.say("lift the cube")
            assert acts(robot), node.output
            node.process.send_signal(signal.SIGKILL)
            node.process.wait()
        robot.reports.clear()
        with policy() as node:
            check_it_waits(robot, node, "before this policy began to listen")
            robot.say("lift the cube")  # the same words, said anew
            assert acts(robot), node.output
            assert robot.current[-1].data == "lift the cube"
            assert node.stop() == 0, node.output


@pytest.mark.parametrize("resume", [False, True])
def test_an_instruction_that_was_there_before_the_policy_counts_only_if_asked_for(ros_domain, resume):
    with Robot() as robot:
        robot.words.publish(String(data="lift the cube"))
        with policy(resume_instruction=str(resume).lower()) as node:
            if resume:
                assert acts(robot), node.output
            else:
                check_it_waits(robot, node, "before this policy began to listen")


def test_a_policy_that_was_suspended_does_not_go_on_by_itself(ros_domain):
    with Robot() as robot, policy(give_up_s=1.0) as node:
        robot.say("lift the cube")
        assert acts(robot), node.output
        node.process.send_signal(signal.SIGSTOP)
        robot.spin_for(2.5)
        robot.chunks.clear()
        robot.reports.clear()
        node.process.send_signal(signal.SIGCONT)
        check_it_waits(robot, node, "the policy node was suspended for")
        robot.say("go on")
        assert acts(robot), node.output


def test_an_instruction_by_topic_ends_when_a_camera_stays_away(ros_domain):
    with Robot() as robot, policy(give_up_s=1.0) as node:
        robot.say("lift the cube")
        assert acts(robot), node.output
        robot.sees = False
        assert robot.until_task_says("waiting for a new instruction"), node.output
        robot.sees = True
        check_it_waits(robot, node, "stale_image: camera 'primary'")


def test_an_instruction_ends_with_the_controller_that_was_to_follow_it(ros_domain):
    alive = DiagnosticStatus(message="ok", values=[KeyValue(key="kind", value="state")])
    with Robot() as robot, policy() as node:
        timer = robot.node.create_timer(0.5, lambda: robot.verdicts.publish(alive))
        robot.say("lift the cube")
        assert acts(robot, 10), node.output
        timer.cancel()
        assert robot.until_task_says("waiting for a new instruction"), node.output
        timer.reset()
        check_it_waits(robot, node, "the controller has been silent for 1.5 s")


SERVER = """
import numpy as np
from openvla_ros.policy.hold import HoldPolicy
from openvla_ros.serving.server import PolicyServer
from openvla_ros.profile import load_profile

server = PolicyServer(HoldPolicy(load_profile("sim_widowx").space()), "127.0.0.1", 0)
print(server.port, flush=True)
server.serve_forever()
"""


@pytest.mark.parametrize("answer_timeout_s", [5.0, 0.3])
def test_a_policy_server_that_comes_back_does_not_find_the_old_instruction(ros_domain, answer_timeout_s):
    with start_python(["-c", SERVER], with_errors=False) as server:
        try:
            address = f"ws://127.0.0.1:{int(server.stdout.readline())}"
            options = {"policy": "remote", "address": address, "answer_timeout_s": answer_timeout_s}
            with Robot() as robot, policy(**options) as node:
                robot.say("lift the cube")
                assert acts(robot), node.output
                os.kill(server.pid, signal.SIGSTOP)
                assert robot.until_task_says("waiting for a new instruction"), node.output
                os.kill(server.pid, signal.SIGCONT)
                check_it_waits(robot, node, "the policy did not answer for")
                robot.say("go on")
                assert acts(robot), node.output
        finally:
            server.kill()
