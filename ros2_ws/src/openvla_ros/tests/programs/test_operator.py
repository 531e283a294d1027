"""The operator by the instruction topic, where the action is not built: how an instruction ends."""

import sys

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

import rclpy
from rclpy.node import Node
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from support.fake_robot import Spinning
from support.waiting import DISCOVERY_S
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.discovery.client import RobotClient
from openvla_ros.errors import DeviceError
from openvla_ros.profile import load_profile
from openvla_ros.programs.operator import Operator
from openvla_ros.ros import qos

pytestmark = pytest.mark.ros


class FakePolicy(Node):
    """Hears words, and does what a test asks it to: sends steps, reports success, counts holds."""

    def __init__(self) -> None:
        super().__init__("policy")
        self.words, self.holds = [], 0
        self.create_subscription(String, "instruction", lambda m: self.words.append(m.data), qos.LATCHED)
        self.create_service(Trigger, "controller/hold", self._hold)
        self.listening = self.create_publisher(String, "policy/instruction", qos.LATCHED)
        self.chunks = self.create_publisher(JointTrajectory, "policy/action_chunk", qos.COMMAND)
        self.success = self.create_publisher(Bool, "task/success", qos.COMMAND)

    def _hold(self, _request, response):
        self.holds += 1
        return response

    def is_heard(self):
        # the operator's measurements listen to chunks too
        return self.chunks.get_subscription_count() == 2 and self.success.get_subscription_count() == 1


@pytest.fixture(scope="module")
def policy(ros_domain):
    rclpy.init()
    node = FakePolicy()
    with Spinning(node):
        yield node
    rclpy.shutdown()


@pytest.fixture
def operator(policy, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvla_interfaces.action", None)
    with RobotClient("operator", timeout_s=DISCOVERY_S) as client:
        operator = Operator(client, load_profile("sim_widowx"))
        client.reach("controller/hold")
        assert client.wait(policy.is_heard, DISCOVERY_S)
        policy.words.clear()
        policy.holds = 0
        yield operator


def begun(operator, policy, words, time_limit_s):
    operator.tell(words, time_limit_s)
    assert operator.client.wait(lambda: words in policy.words, DISCOVERY_S)


def held(operator, policy):
    return operator.client.wait(lambda: policy.words[-1:] == [""] and policy.holds == 1, DISCOVERY_S)


def test_success_ends_it_the_words_are_taken_back_and_the_arm_holds(operator, policy):
    steps = []
    operator.on_step = lambda step, verdict: steps.append(step)
    begun(operator, policy, "lift the cube", 60.0)
    for _ in range(3):
        policy.chunks.publish(JointTrajectory())
    assert operator.client.wait(lambda: steps == [1, 2, 3], DISCOVERY_S)
    assert operator.outcome() is None
    policy.success.publish(Bool(data=True))
    outcome = operator.wait_for_outcome(DISCOVERY_S)
    assert (outcome.instruction, outcome.outcome, outcome.steps) == ("lift the cube", "succeeded", 3)
    assert outcome.succeeded
    assert held(operator, policy)
    assert operator.outcome() is outcome  # it stays what it was


def test_the_time_limit_ends_it_and_the_arm_holds(operator, policy):
    outcome = operator.carry_out("push the cube", 0.5)
    assert (outcome.outcome, outcome.message) == ("time_limit", "the time limit of 0.5 s was reached")
    assert outcome.duration_s > 0.5
    assert held(operator, policy)


def test_a_success_from_before_does_not_count_for_new_words(operator, policy):
    policy.success.publish(Bool(data=True))
    assert operator.client.wait(lambda: operator.success, DISCOVERY_S)
    begun(operator, policy, "reach", 60.0)
    assert operator.outcome() is None
    operator.cancel()
    assert held(operator, policy)


def test_what_is_missing_is_named(operator, policy):
    listener = "a policy that listens to instruction"
    with pytest.raises(DeviceError, match=f"robot 'sim_widowx' is not up: missing {listener}, joint states"):
        operator.wait_until_ready(0.2)
    assert operator.missing()[-1] == "the controller"
    policy.listening.publish(String(data=""))  # the topic alone is there before the policy listens
    assert operator.client.wait(lambda: listener not in operator.missing(), DISCOVERY_S)
