"""The policy node's action: its goals, their feedback and result, and what the node does without it."""

import signal
import time

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from std_msgs.msg import Bool
from support.fake_policy_peers import Robot, policy
from support.node_processes import NodeProcess

from openvla_ros.ros.messages import from_duration, to_duration

pytestmark = pytest.mark.ros


class Client:
    """Sends goals to the policy node and keeps what comes back."""

    def __init__(self, robot):
        from openvla_interfaces.action import ExecuteInstruction
        from rclpy.action import ActionClient

        self.robot, self.action = robot, ExecuteInstruction
        self.client = ActionClient(robot.node, ExecuteInstruction, "execute_instruction")
        assert robot.spin_until(self.client.server_is_ready)

    def send(self, instruction, limit_s=0.0):
        goal = self.action.Goal(instruction=instruction, time_limit=to_duration(limit_s))
        feedback = []
        future = self.client.send_goal_async(goal, feedback_callback=lambda m: feedback.append(m.feedback))
        assert self.robot.spin_until(future.done)
        assert future.result().accepted
        return future.result(), future.result().get_result_async(), feedback

    def result(self, future):
        assert self.robot.spin_until(future.done)
        return future.result().result

    def destroy(self):
        self.client.destroy()


@pytest.fixture
def live(ros_domain):
    pytest.importorskip("openvla_interfaces", reason="the package openvla_interfaces is not built")
    with Robot() as robot, policy(give_up_s=1.5) as node:
        client = Client(robot)
        assert robot.spin_until(lambda: robot.is_heard() and "Hz" in robot.status("camera primary").message)
        yield robot, client, node
        client.destroy()
        assert node.stop() == 0, node.output
        assert "Traceback" not in node.output


def test_a_goal_reports_every_step_and_succeeds_when_the_robot_says_so(live):
    robot, client, node = live
    _, future, feedback = client.send("lift the cube")
    robot.verdicts.publish(
        DiagnosticStatus(message="beyond the table", values=[KeyValue(key="reason", value="workspace")])
    )
    assert robot.spin_until(lambda: sum(f.step > 0 for f in feedback) >= 5), node.output
    robot.successes.publish(Bool(data=False))
    robot.successes.publish(Bool(data=True))
    result = client.result(future)
    assert (result.outcome, result.message) == (
        "succeeded",
        "the robot reported success (topic task/success)",
    )
    steps = [f.step for f in feedback if f.step]
    assert steps == list(range(1, len(steps) + 1))
    assert robot.spin_until(lambda: len(robot.chunks) >= result.steps)
    assert result.steps == steps[-1] == len(robot.chunks)
    assert feedback[-1].verdict == "workspace"
    assert 0.0 < feedback[-1].inference_latency_s < feedback[-1].observation_age_s
    assert robot.spin_until(lambda: len(robot.calls) >= 2)
    assert robot.calls == ["ask_for_policy", "hold"]
    robot.spin_for(0.5)
    assert len(robot.chunks) == result.steps  # nothing after the end


def test_cancel_time_limit_pre_emption_and_the_empty_instruction(live):
    robot, client, _node = live
    handle, future, feedback = client.send("first")
    assert robot.spin_until(lambda: len(feedback) >= 1)
    cancelled = handle.cancel_goal_async()
    assert robot.spin_until(cancelled.done)
    assert client.result(future).outcome == "canceled"
    assert future.result().status == 5  # GoalStatus.STATUS_CANCELED

    began = time.monotonic()
    _, future, _ = client.send("second", limit_s=1.0)
    result = client.result(future)
    assert (result.outcome, future.result().status) == ("time_limit", 6)
    assert 1.0 <= from_duration(result.duration) < time.monotonic() - began

    _, older, _ = client.send("third")
    _, newer, feedback = client.send("fourth")
    result = client.result(older)
    assert (result.outcome, result.message) == ("preempted", "replaced by 'fourth'")
    assert robot.spin_until(lambda: len(feedback) >= 2)
    assert robot.current[-1].data == "fourth"
    robot.say("another one by topic")
    robot.spin_for(0.3)
    assert not newer.done()
    robot.say("")
    assert client.result(newer).outcome == "aborted"

    _, future, _ = client.send("  ")
    assert client.result(future).message == "the instruction is empty"


def test_a_goal_that_cannot_be_carried_out_is_refused_or_aborted_with_the_reason(live):
    robot, client, _ = live
    robot.sees = False
    robot.spin_for(0.7)
    _, future, feedback = client.send("lift the cube")
    result = client.result(future)
    assert (result.outcome, result.steps) == ("refused", 0)
    assert "stale_image: camera 'primary'" in result.message
    assert feedback[-1].verdict == "stale_image"

    robot.sees = True
    robot.spin_for(0.3)
    _, future, feedback = client.send("lift the cube")
    assert robot.spin_until(lambda: feedback and feedback[-1].step >= 2)
    robot.feels = False
    result = client.result(future)
    assert result.outcome == "aborted"
    assert "stale_state" in result.message
    robot.feels = True

    robot.spin_for(0.3)
    _, future, feedback = client.send("lift the cube")
    assert robot.spin_until(lambda: feedback and feedback[-1].step >= 2)
    robot.verdicts.publish(
        DiagnosticStatus(message="the button", values=[KeyValue(key="reason", value="e_stop")])
    )
    assert client.result(future).message == "the controller says e_stop: the button"

    robot.grants = False
    _, future, _ = client.send("lift the cube")
    result = client.result(future)
    assert (result.outcome, result.message) == ("refused", "the controller refuses: the e-stop is latched")


def test_an_instruction_that_is_refused_does_not_hold_the_arm_of_whoever_has_it(live):
    robot, client, _ = live
    robot.grants = False
    for owner, calls in (("teleoperation", ["ask_for_policy"]), ("policy", ["ask_for_policy", "hold"])):
        values = [KeyValue(key="reason", value="ok"), KeyValue(key="owner", value=owner)]
        robot.verdicts.publish(DiagnosticStatus(message="executing", values=values))
        robot.spin_for(0.5)
        robot.calls.clear()
        _, future, _ = client.send("lift the cube")
        assert client.result(future).outcome == "refused"
        robot.spin_for(0.5)
        assert robot.calls == calls


def test_a_stopped_node_ends_its_goal_and_holds_as_its_last_word(live):
    robot, client, node = live
    _, _future, feedback = client.send("lift the cube")
    assert robot.spin_until(lambda: len(feedback) >= 2)
    robot.calls.clear()
    node.process.send_signal(signal.SIGTERM)
    assert robot.spin_until(lambda: robot.calls == ["hold"]), node.output
    assert node.stop() == 0


BAD_POLICY = """
from openvla_ros.nodes import policy_node
from openvla_ros.policy.hold import HoldPolicy

class Broken(HoldPolicy):
    def infer(self, observation):
        raise RuntimeError("index out of range")

policy_node.load_policy = lambda options, profile, scene: Broken(profile.space())
policy_node.main()
"""


def test_a_policy_that_fails_in_an_unforeseen_way_ends_the_goal_and_not_the_node(ros_domain):
    pytest.importorskip("openvla_interfaces", reason="the package openvla_interfaces is not built")
    with Robot() as robot, NodeProcess(BAD_POLICY) as node:
        client = Client(robot)
        _, future, _ = client.send("lift the cube")
        result = client.result(future)
        assert result.outcome == "aborted"
        assert result.message == "the policy failed: RuntimeError: index out of range"
        client.destroy()
        assert node.stop() == 0


NO_INTERFACES = """
import sys
sys.modules["openvla_interfaces"] = None
from openvla_ros.nodes import policy_node
policy_node.main()
"""


def test_without_the_interfaces_everything_but_the_action_works_and_says_so(ros_domain):
    with Robot() as robot, NodeProcess(NO_INTERFACES, {"policy": "hold"}) as node:
        robot.say("lift the cube")
        assert robot.spin_until(lambda: len(robot.chunks) >= 2), node.output
    assert "the topic 'instruction' does the same, without feedback and result" in node.output
