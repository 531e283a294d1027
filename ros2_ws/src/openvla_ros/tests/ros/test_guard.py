"""Whatever arrives at a node is taken, or refused and counted with its reason; the process goes on."""

import math
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

import rclpy
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.lifecycle import TransitionCallbackReturn
from std_msgs.msg import String
from std_srvs.srv import Trigger
from support.node_processes import Listener
from support.waiting import holds_within, wait_until
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from openvla_ros.errors import FatalNodeError, InvalidValueError
from openvla_ros.nodes.control.core_lock import CoreLock
from openvla_ros.nodes.setpoint_node import SetpointNode
from openvla_ros.profile import load_profile
from openvla_ros.ros import guard as guard_module
from openvla_ros.ros import qos
from openvla_ros.ros.diagnostics import DiagnosticsPublisher
from openvla_ros.ros.guard import (
    CALLBACK_FAILED,
    TOO_LARGE,
    UNREADABLE,
    Guard,
    GuardedExecutor,
    GuardedLifecycleNode,
    GuardedNode,
    Refused,
)

pytestmark = pytest.mark.ros


def raised(error: Exception) -> None:
    raise error


class Frail(GuardedLifecycleNode):
    """A node whose every callback breaks on the word ``break``."""

    def __init__(self) -> None:
        super().__init__("frail")
        self.heard: list[str] = []
        self.told: list[Refused] = []
        self.create_subscription(
            String, "words", self._words, qos.COMMAND, largest_bytes=1000, refused=self.told.append
        )
        self.create_subscription(String, "raw", lambda data: raised(KeyError("raw")), qos.COMMAND, raw=True)
        self.create_service(Trigger, "~/ask", lambda request, response: raised(ValueError("a bug")))
        self.add_on_set_parameters_callback(lambda parameters: raised(RuntimeError("no such thing")))
        self.create_timer(0.05, lambda: raised(ZeroDivisionError("tick")))
        self.diagnostics = DiagnosticsPublisher(self, lambda: raised(TypeError("health")), 0.1)

    def _words(self, message: String) -> None:
        self.heard.append(message.data)
        if message.data == "refuse":
            raise InvalidValueError("that word is not known")
        if message.data == "break":
            raise IndexError("a bug of ours")

    def on_configure(self, state):
        return TransitionCallbackReturn.SUCCESS

    def counts(self) -> dict[str, int]:
        return {key: int(value) for key, value in self.guard.health().values.items()}


@pytest.fixture
def frail(ros_domain):
    rclpy.init()
    node, executor = Frail(), GuardedExecutor()
    executor.add_node(node)
    with Listener("outside") as listener:

        def spin_until(done, timeout_s=20.0):
            def both():
                executor.spin_once(timeout_sec=0.01)
                listener.spin_once(0.0)

            return holds_within(done, timeout_s, both)

        yield node, listener.node, spin_until
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()


def test_messages_are_refused_by_size_by_text_and_by_our_own_faults(frail):
    node, outside, spin_until = frail
    words = outside.create_publisher(String, "words", qos.COMMAND)
    raw = outside.create_publisher(String, "raw", qos.COMMAND)
    assert spin_until(lambda: words.get_subscription_count() and raw.get_subscription_count())
    for text in ("a" * 2000, "refuse", "break", "break", "good"):
        words.publish(String(data=text))
    raw.publish(String(data="x"))
    assert spin_until(lambda: "good" in node.heard and node.counts().get("raw: callback_failed"))
    assert node.heard == ["refuse", "break", "break", "good"]  # the long one was never parsed
    counts = node.counts()
    assert counts["words: too_large"] == 1
    assert counts["words: invalid_value"] == 1
    assert counts["words: callback_failed"] == 2
    assert [refused.reason for refused in node.told] == [
        TOO_LARGE, "invalid_value", CALLBACK_FAILED, CALLBACK_FAILED,
    ]  # fmt: skip
    assert str(node.told[2]).startswith("callback failed: IndexError: a bug of ours (test_guard.py:")


def test_bytes_that_are_no_message_are_unreadable(frail):
    node, outside, spin_until = frail
    words = outside.create_publisher(String, "words", qos.COMMAND)
    assert spin_until(words.get_subscription_count)
    words.publish(b"\x00\x01\x00\x00\x40\x00\x00\x00abc")  # 64 letters are announced
    assert spin_until(lambda: node.told)
    assert node.told[0].reason == UNREADABLE
    assert node.heard == []


def test_every_service_answers_with_the_reason(frail):
    _, outside, spin_until = frail
    ask = outside.create_client(Trigger, "frail/ask")
    assert spin_until(ask.service_is_ready)
    future = ask.call_async(Trigger.Request())
    assert spin_until(future.done)
    assert not future.result().success
    assert future.result().message.startswith("callback failed: ValueError: a bug (")

    change = outside.create_client(SetParameters, "frail/set_parameters")
    assert spin_until(change.service_is_ready)
    request = SetParameters.Request(parameters=[rclpy.Parameter("x", value=1).to_parameter_msg()] * 2)
    future = change.call_async(request)
    assert spin_until(future.done)
    assert [result.successful for result in future.result().results] == [False, False]

    transit = outside.create_client(ChangeState, "frail/change_state")
    assert spin_until(transit.service_is_ready)
    request = ChangeState.Request()
    request.transition.id = 99
    future = transit.call_async(request)
    assert spin_until(future.done)
    assert not future.result().success


def test_timers_and_diagnostics_go_on_and_say_what_failed(frail):
    node, _, spin_until = frail
    counts = {}
    assert spin_until(
        lambda: counts.update(node.counts()) or counts.get("diagnostics: callback_failed", 0) > 1
    )
    assert sum("timer" in key and value > 1 for key, value in counts.items()) == 1


def test_only_a_fatal_error_passes(ros_domain):
    guard = Guard("test")
    assert guard.call("here", lambda: 3) == 3
    with pytest.raises(FatalNodeError, match="the end"):
        guard.call("here", lambda: raised(FatalNodeError("the end")))
    with pytest.raises(KeyboardInterrupt):
        guard.call("here", lambda: raised(KeyboardInterrupt()))
    assert guard.call("here", lambda: raised(OSError("x" * 9000))).reason == CALLBACK_FAILED
    health = guard.health()
    assert (health.level, health.values) == ("error", {"here: callback_failed": "1"})
    assert len(health.message) < 500
    assert guard.health().level == "ok"


def test_the_same_refusal_is_logged_once_in_a_while(monkeypatch):
    lines, now = [], [100.0]
    guard = Guard("test")
    monkeypatch.setattr(guard, "_log", lambda source, refused, count: lines.append((source, count)))
    monkeypatch.setattr(guard_module.time, "monotonic", lambda: now[0])
    for i in range(3000):
        now[0] = 100.0 + i * 0.005
        guard.refuse("a", Refused("width", ""))
    guard.refuse("b", Refused("width", ""))
    assert lines == [("a", 1), ("a", 1000), ("a", 1000), ("b", 1)]


def test_a_core_that_broke_is_held_before_anyone_else_gets_it():
    held: list[BaseException] = []
    lock = CoreLock(held.append)
    with pytest.raises(ValueError, match="a bug"), lock:
        raise ValueError("a bug")
    assert [str(error) for error in held] == ["a bug"]
    with lock:  # released, and nothing more is held
        pass
    assert len(held) == 1
    broken = CoreLock(lambda error: raised(RuntimeError("not even that")))
    with pytest.raises(FatalNodeError, match="could not be held after ValueError: a bug"), broken:
        raise ValueError("a bug")


def test_a_fault_of_ours_while_a_chunk_is_taken_holds_the_arm(ros_domain, monkeypatch):
    from openvla_ros.nodes.controller_node import ControllerNode
    from openvla_ros.values.verdict import Reason

    rclpy.init()
    node, executor = ControllerNode(), GuardedExecutor()
    executor.add_node(node)
    try:
        monkeypatch.setattr(node._core, "accept", lambda *a: raised(RuntimeError("half done")))
        with Listener("outside") as listener:
            chunks = listener.node.create_publisher(JointTrajectory, "policy/action_chunk", qos.COMMAND)

            def send():
                chunks.publish(JointTrajectory())
                executor.spin_once(timeout_sec=0.05)

            wait_until(lambda: node._output.verdict.reason is Reason.HELD, 20.0, send)
        assert node._output.verdict.detail.startswith("callback failed: RuntimeError: half done (")
        assert int(node.guard.health().values["policy/action_chunk: callback_failed"]) >= 1
    finally:
        node.stop()
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown()


def test_a_node_of_plain_services_is_guarded_too(ros_domain):
    rclpy.init()
    node = GuardedNode("plain")
    try:
        assert all(isinstance(s.callback, guard_module._GuardedService) for s in node.services)
    finally:
        node.destroy_node()
        rclpy.shutdown()


@pytest.mark.parametrize(
    ("names", "positions"),
    [
        (["left_finger"], [math.nan]),
        ([], []),
        (["left_finger"], []),
        (["waist"], [0.03]),
        (["left_finger"], [1, 2]),
    ],
)
def test_a_gripper_that_nobody_can_place_stays_where_it_is(names, positions):
    node = SimpleNamespace(_profile=load_profile("sim_widowx"), _opening=0.5)
    points = [JointTrajectoryPoint(positions=positions)] if positions else []
    with pytest.raises(InvalidValueError, match="expected one finite position of 'left_finger'"):
        SetpointNode._open(node, JointTrajectory(joint_names=names, points=points))
    assert node._opening == 0.5
    good = [JointTrajectoryPoint(positions=[0.037])]
    SetpointNode._open(node, JointTrajectory(joint_names=["left_finger"], points=good))
    assert node._opening == 1.0
