"""The policy node over DDS, between a stand-in for cameras and arm and a stand-in for the controller."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from std_msgs.msg import Bool
from support.fake_policy_peers import MODULE, PROFILE, Robot, policy
from support.node_processes import DISCOVERY_S, NodeProcess
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.ros import qos
from openvla_ros.ros.messages import from_chunk_message, from_duration, from_stamp, to_duration

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


def test_the_rhythm_follows_its_parameter_and_a_node_that_is_shut_down_acts_no_more(ros_domain):
    with Robot(camera_hz=30.0) as robot, policy() as node:
        clients = [
            robot.node.create_client(kind, f"policy/{name}")
            for kind, name in ((SetParameters, "set_parameters"), (ChangeState, "change_state"))
        ]
        assert robot.spin_until(lambda: all(c.service_is_ready() for c in clients)), node.output
        set_parameters, change_state = clients
        robot.say("wait")
        assert robot.spin_until(lambda: len(robot.chunks) >= 2), node.output
        steps = Parameter("steps_between_inferences", value=5).to_parameter_msg()
        answer = set_parameters.call_async(SetParameters.Request(parameters=[steps]))
        assert robot.spin_until(answer.done)
        assert answer.result().results[0].successful
        robot.spin_for(0.5)
        robot.chunks.clear()
        assert robot.spin_until(lambda: len(robot.chunks) >= 3), node.output
        stamps = [from_stamp(c.header.stamp) for c in robot.chunks]
        assert np.diff(stamps).min() >= 0.95e9  # five steps of 0.2 s, give or take half an image

        ending = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_ACTIVE_SHUTDOWN))
        answer = change_state.call_async(ending)
        assert robot.spin_until(answer.done)
        assert answer.result().success
        assert robot.spin_until(lambda: robot.calls[-1] == "hold"), robot.calls
        robot.spin_for(0.3)
        count = len(robot.chunks)
        robot.say("go on")
        robot.spin_for(2.0)
        assert len(robot.chunks) == count
        assert node.stop() == 0
    assert "Traceback" not in node.output


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"policy": "openvla"}, "needs a checkpoint"),
        ({"policy": "openvla", "checkpoint": "/nowhere", "offline": "true"}, "/nowhere"),
        ({"policy": "openvla", "checkpoint": "small_base", "device": "mps"}, "not one of auto, cpu, cuda"),
        ({"policy": "wish"}, "'wish'; it must be one of openvla"),
        ({"policy": "replay", "dataset": "/nowhere"}, "/nowhere does not exist"),
        ({"robot": "r2d2"}, "no robot profile 'r2d2'"),
    ],
)
def test_a_policy_that_cannot_start_says_why_and_ends_with_1(ros_domain, parameters, message):
    with NodeProcess(MODULE, parameters) as node:
        assert node.process.wait(2 * DISCOVERY_S) == 1
        node.stop()
    assert message in node.output
    assert "Traceback" not in node.output


UNFORESEEN = """
from openvla_ros.nodes import MODULE as module

def load(*arguments):
    raise RuntimeError("cuBLAS is not what it was")

module.LOADER = load
module.main()
"""


@pytest.mark.parametrize(
    ("module", "loader"), [("policy_node", "load_policy"), ("camera_node", "load_camera")]
)
def test_whatever_is_raised_while_configuring_is_told_with_type_and_text(ros_domain, module, loader):
    program = UNFORESEEN.replace("MODULE", module).replace("LOADER", loader)
    with NodeProcess(program) as node:
        assert node.process.wait(2 * DISCOVERY_S) == 1
        node.stop()
    assert "configure failed: RuntimeError: cuBLAS is not what it was" in node.output
    assert "[FATAL]" in node.output
    assert "Traceback" not in node.output


def test_a_transition_that_is_not_possible_is_answered_and_ends_nothing(ros_domain):
    with Robot() as robot, policy() as node:
        change_state = robot.node.create_client(ChangeState, "policy/change_state")
        assert robot.spin_until(change_state.service_is_ready), node.output
        assert robot.until_task_says("no instruction"), node.output
        request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_ACTIVATE))
        answer = change_state.call_async(request)  # it is active
        assert robot.spin_until(answer.done), node.output
        assert not answer.result().success
        robot.say("lift the cube")
        assert robot.spin_until(lambda: len(robot.chunks) >= 2), node.output
        assert node.stop() == 0, node.output
    assert "Traceback" not in node.output


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
