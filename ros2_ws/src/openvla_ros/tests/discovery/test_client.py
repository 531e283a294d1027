"""The client of a running robot: what it waits for, what it asks, and what it says when that is in vain."""

import time
from itertools import pairwise

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger
from support.fake_robot import Spinning
from support.waiting import DISCOVERY_S

from openvla_ros.discovery.client import LOOK_PERIOD_S, RobotClient
from openvla_ros.errors import DeviceError
from openvla_ros.ros import qos
from openvla_ros.ros.verdict_messages import VerdictReport, to_verdict_message
from openvla_ros.values.verdict import Reason, SafetyVerdict

pytestmark = pytest.mark.ros
HELD = VerdictReport("state", SafetyVerdict.hold(Reason.HELD, "held"), "holding", "policy", True)


class FakeController(Node):
    """Answers, refuses, or says nothing; has one parameter that takes small numbers only."""

    def __init__(self) -> None:
        super().__init__("controller")
        self.create_service(Trigger, "controller/hold", self._answer(True, "held"))
        self.create_service(Trigger, "controller/home", self._answer(False, "the arm is stopped"))
        self.declare_parameter("size", 1)
        self.add_on_set_parameters_callback(self._check)
        self.verdicts = self.create_publisher(DiagnosticStatus, "controller/verdict", qos.VERDICT)
        self.words = []
        self.create_subscription(String, "instruction", lambda m: self.words.append(m.data), qos.LATCHED)

    def _answer(self, success, message):
        def answer(_request, response):
            response.success, response.message = success, message
            return response

        return answer

    def _check(self, parameters):
        return SetParametersResult(successful=parameters[0].value < 10, reason="too large")


@pytest.fixture(scope="module")
def controller(ros_domain):
    rclpy.init()
    node = FakeController()
    with Spinning(node):
        yield node
    rclpy.shutdown()


@pytest.fixture
def client(controller):
    with RobotClient("asking", timeout_s=DISCOVERY_S) as client:
        yield client


def test_an_order_returns_what_the_service_says(client):
    assert client.order("controller/hold") == "held"
    assert client.order("controller/hold") == "held"  # and again, by the same client


def test_a_refusal_is_an_error_for_an_order_and_an_answer_for_a_question(client):
    with pytest.raises(DeviceError, match=r"^controller/home refused: the arm is stopped$"):
        client.order("controller/home")
    assert client.ask("controller/home").message == "the arm is stopped"


def test_a_service_that_nobody_offers_is_named_with_who_should(controller):
    with (
        RobotClient("asking", "left", timeout_s=0.2, hint="nodes.log says more") as client,
        pytest.raises(
            DeviceError,
            match=r"^no service /left/recorder/start: is the recorder running\?; nodes.log says more$",
        ),
    ):
        client.order("recorder/start")


def test_parameters_are_set_or_refused_with_the_reason(client, controller):
    client.set_parameter("controller", "size", 3)
    assert controller.get_parameter("size").value == 3
    with pytest.raises(DeviceError, match=r"^controller refuses size = 12: too large$"):
        client.set_parameter("controller", "size", 12)
    assert controller.get_parameter("size").value == 3


def test_a_wait_has_a_limit_and_says_whether_it_was_in_vain(client):
    began_s = time.monotonic()
    assert not client.wait(lambda: False, 0.3)
    assert 0.3 <= time.monotonic() - began_s < 5.0
    assert client.wait(lambda: True, 0.0)
    with pytest.raises(DeviceError, match=r"^no luck$"):
        client.require(lambda: False, 0.1, lambda: "no luck")


def test_a_look_is_taken_again_and_again_during_a_wait_and_its_error_ends_it(controller):
    looks = []

    def look():
        looks.append(time.monotonic())
        if len(looks) > 4:
            raise DeviceError("a process has ended")

    with (
        RobotClient("watching", look=look) as client,
        pytest.raises(DeviceError, match="a process has ended"),
    ):
        client.listen(DISCOVERY_S)
    assert all(later - before > 0.5 * LOOK_PERIOD_S for before, later in pairwise(looks))


def test_verdicts_are_heard_and_what_is_none_does_not_end_the_program(client, controller):
    controller.verdicts.publish(to_verdict_message(HELD))
    earlier, later = [], []
    client.hear_verdicts(earlier.append, earlier=True)
    client.hear_verdicts(later.append, earlier=False)
    assert client.wait(lambda: HELD in earlier, DISCOVERY_S)
    assert client.wait(lambda: controller.verdicts.get_subscription_count() == 2, DISCOVERY_S)
    client.listen(0.3)
    assert later == []
    controller.verdicts.publish(DiagnosticStatus(name="somebody else's"))
    controller.verdicts.publish(to_verdict_message(HELD))
    assert client.wait(lambda: later == [HELD], DISCOVERY_S)


def test_words_said_before_anybody_listens_are_heard(client, controller):
    client.latched(String, "instruction").publish(String(data="lift the cube"))
    assert client.wait(lambda: "lift the cube" in controller.words, DISCOVERY_S)


def test_without_a_clock_a_client_on_simulated_time_says_so(controller, monkeypatch):
    monkeypatch.setattr("openvla_ros.discovery.client.READY_TIMEOUT_S", 0.2)
    with (
        RobotClient("asking", use_sim_time=True) as client,
        pytest.raises(DeviceError, match=r"^nobody publishes /clock"),
    ):
        client.wait_for_clock()
