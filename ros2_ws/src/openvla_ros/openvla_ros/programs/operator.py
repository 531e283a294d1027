"""The operator's side: tell the robot what to do in words, and watch it from outside.

Uses only what any ROS user could: the ``ExecuteInstruction`` action (or the latched instruction
topic where its types are not built), the published topics and ``/diagnostics``. ``openvla tell``
and the demo are built on it. The caller spins the node.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.errors import DeviceError
from openvla_ros.profile import RobotProfile
from openvla_ros.ros import qos
from openvla_ros.ros.messages import from_duration, from_stamp, to_duration
from openvla_ros.ros.start import start_ros
from openvla_ros.values.health import LatencyHealth, StreamHealth

# How long after the newest chunk's observation a chunk may be seen; only for the report's colours.
AGE_LIMIT_S = 0.5
# Discovery takes up to a few seconds on a busy machine.
READY_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Outcome:
    """How one instruction ended."""

    instruction: str
    outcome: str  # the words of ExecuteInstruction.action
    message: str
    steps: int
    duration_s: float

    @property
    def succeeded(self) -> bool:
        """Whether the robot's own success signal said so."""
        return self.outcome == "succeeded"


@dataclass
class Measurements:
    """What was seen while the robot worked."""

    chunks: StreamHealth
    states: StreamHealth
    images: dict[str, StreamHealth]
    inference: LatencyHealth = field(default_factory=lambda: LatencyHealth("inference", AGE_LIMIT_S))
    age: LatencyHealth = field(default_factory=lambda: LatencyHealth("camera to chunk", AGE_LIMIT_S))
    verdicts: Counter[str] = field(default_factory=Counter)
    path: list[tuple[float, ...]] = field(default_factory=list)  # seconds, tool point in metres
    statuses: dict[str, DiagnosticStatus] = field(default_factory=dict)


class Operator(Node):
    """Gives instructions and collects measurements."""

    def __init__(self, profile: RobotProfile, namespace: str = "") -> None:
        super().__init__("operator", namespace=namespace)
        self.measured = Measurements(
            StreamHealth("action chunks", profile.action_space.rate_hz, 1.0),
            StreamHealth("joint states", profile.state.rate_hz, profile.state.max_age_s),
            {c.name: StreamHealth(f"camera {c.name}", c.rate_hz, c.max_age_s) for c in profile.cameras},
        )
        self.success = False
        self.on_step: Callable[[int, str], None] = lambda step, verdict: None
        self._instruction = self.create_publisher(String, "instruction", qos.LATCHED)
        self._reset = self.create_client(Trigger, "simulation/reset")
        self._hold = self.create_client(Trigger, "controller/hold")
        self._client = _action_client(self)
        self._goal: _Goal | None = None
        self._subscribe(profile)

    def missing(self) -> list[str]:
        """Return what is not there yet for an instruction to be given; empty when ready."""
        lines = []
        if self._client is not None and not self._client.server_is_ready():
            lines.append("the policy's execute_instruction server")
        if self._client is None and not self.count_publishers("policy/instruction"):
            lines.append("a policy that listens to instruction")
        if not self.measured.states.received_count:
            lines.append("joint states")
        lines += [
            f"images of camera {name}" for name, s in self.measured.images.items() if not s.received_count
        ]
        if not self.measured.verdicts:
            lines.append("the controller")
        return lines

    def tell(self, instruction: str, time_limit_s: float) -> None:
        """Start carrying out ``instruction``; ``outcome`` says when it has ended."""
        self.success = False
        now = self.get_clock().now().nanoseconds
        self._goal = _Goal(instruction, time_limit_s, now)
        if self._client is None:
            self._instruction.publish(String(data=instruction))
            return
        goal = self._client_type().Goal(instruction=instruction, time_limit=to_duration(time_limit_s))
        self._client.send_goal_async(goal, feedback_callback=self._feedback).add_done_callback(self._accepted)

    def outcome(self) -> Outcome | None:
        """Return how the newest instruction ended, or ``None`` while it is being carried out."""
        goal = self._goal
        if goal is None or goal.outcome is not None or self._client is not None:
            return goal.outcome if goal else None
        elapsed = (self.get_clock().now().nanoseconds - goal.started_ns) * 1e-9
        if self.success:
            goal.outcome = Outcome(goal.instruction, "succeeded", "task/success", goal.steps, elapsed)
        elif elapsed > goal.time_limit_s:
            goal.outcome = Outcome(
                goal.instruction, "time_limit", f"{goal.time_limit_s} s", goal.steps, elapsed
            )
        if goal.outcome is not None:
            self._instruction.publish(String(data=""))
            self._hold.call_async(Trigger.Request())
        return goal.outcome

    def reset_simulation(self) -> Future:
        """Ask the simulation for a new scene; the answer's message is what the scene asks for."""
        return self._reset.call_async(Trigger.Request())

    def cancel(self) -> None:
        """Stop carrying out the instruction."""
        if self._goal is not None and self._goal.handle is not None:
            self._goal.handle.cancel_goal_async()
        elif self._client is None:
            self._instruction.publish(String(data=""))
            self._hold.call_async(Trigger.Request())

    def stop(self) -> None:
        """Nothing of this node moves the robot by itself."""

    def _subscribe(self, profile: RobotProfile) -> None:
        for camera in profile.cameras:
            self.create_subscription(
                Image, camera.topic, _Note(self, self.measured.images[camera.name]), qos.NEWEST_IN
            )
        state = profile.state.joint_states_topic
        self.create_subscription(JointState, state, _Note(self, self.measured.states), qos.NEWEST_IN)
        self.create_subscription(JointTrajectory, "policy/action_chunk", self._chunk, qos.COMMAND)
        self.create_subscription(DiagnosticStatus, "controller/verdict", self._verdict, qos.COMMAND)
        self.create_subscription(PoseStamped, "controller/current_pose", self._pose, qos.NEWEST_IN)
        self.create_subscription(Bool, "task/success", self._success, qos.COMMAND)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._diagnostics, qos.DIAGNOSTICS)

    def _chunk(self, message: JointTrajectory) -> None:
        now, stamp = self.get_clock().now().nanoseconds, from_stamp(message.header.stamp)
        self.measured.chunks.received(now, now)
        self.measured.age.add((now - stamp) * 1e-9)
        if self._goal is not None and self._client is None:
            self._goal.steps += 1
            self.on_step(self._goal.steps, "")

    def _verdict(self, message: DiagnosticStatus) -> None:
        reason = next((v.value for v in message.values if v.key == "reason"), message.message)
        self.measured.verdicts[reason] += 1

    def _pose(self, message: PoseStamped) -> None:
        p = message.pose.position
        self.measured.path.append((from_stamp(message.header.stamp) * 1e-9, p.x, p.y, p.z))

    def _success(self, message: Bool) -> None:
        self.success = self.success or message.data

    def _diagnostics(self, message: DiagnosticArray) -> None:
        self.measured.statuses |= {status.name: status for status in message.status}

    def _client_type(self) -> Any:
        from openvla_interfaces.action import ExecuteInstruction

        return ExecuteInstruction

    def _accepted(self, future: Future) -> None:
        handle, goal = future.result(), self._goal
        if goal is None:
            return
        if not handle.accepted:
            goal.outcome = Outcome(goal.instruction, "refused", "the policy node refused the goal", 0, 0.0)
            return
        goal.handle = handle
        handle.get_result_async().add_done_callback(self._finished)

    def _feedback(self, message: Any) -> None:
        feedback = message.feedback
        self.measured.inference.add(float(feedback.inference_latency_s))
        self.on_step(int(feedback.step), str(feedback.verdict))

    def _finished(self, future: Future) -> None:
        if self._goal is None:
            return
        result = future.result().result
        self._goal.outcome = Outcome(
            self._goal.instruction,
            str(result.outcome),
            str(result.message),
            int(result.steps),
            from_duration(result.duration),
        )


@dataclass
class _Goal:
    instruction: str
    time_limit_s: float
    started_ns: int
    handle: Any = None
    steps: int = 0
    outcome: Outcome | None = None


class _Note:
    """Notes the arrival of a stamped message."""

    def __init__(self, node: Node, health: StreamHealth) -> None:
        self._node, self._health = node, health

    def __call__(self, message: Any) -> None:
        self._health.received(from_stamp(message.header.stamp), self._node.get_clock().now().nanoseconds)


def tell_robot(
    profile: RobotProfile, namespace: str, instruction: str, time_limit_s: float, say: Callable[[str], None]
) -> Outcome:
    """Tell a running robot what to do and return how it ended; an interrupt cancels first.

    Raises ``DeviceError`` naming what is missing if the robot's nodes do not show up.
    """
    start_ros()
    operator = Operator(profile, namespace)
    operator.on_step = lambda step, verdict: say(f"step {step:3d}  {verdict}")
    executor = SingleThreadedExecutor()
    executor.add_node(operator)
    try:
        _spin_until(executor, lambda: not operator.missing(), READY_TIMEOUT_S)
        if operator.missing():
            raise DeviceError(f"robot {profile.name!r} is not up: missing {', '.join(operator.missing())}")
        operator.tell(instruction, time_limit_s)
        try:
            _spin_until(executor, lambda: operator.outcome() is not None, time_limit_s + READY_TIMEOUT_S)
        except KeyboardInterrupt:
            operator.cancel()
            _spin_until(executor, lambda: operator.outcome() is not None, READY_TIMEOUT_S)
        outcome = operator.outcome()
        if outcome is None:
            raise DeviceError("the policy node did not say how the instruction ended")
        return outcome
    finally:
        executor.shutdown()
        operator.destroy_node()
        rclpy.try_shutdown()


def _spin_until(executor: SingleThreadedExecutor, done: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not done() and time.monotonic() < deadline:
        executor.spin_once(timeout_sec=0.05)


def _action_client(node: Node) -> ActionClient | None:
    """Return the client of the action, or ``None`` (with a word in the log) where it is not built."""
    try:
        from openvla_interfaces.action import ExecuteInstruction
    except ImportError:
        node.get_logger().warning(
            "openvla_interfaces is not built: using the instruction topic instead of the action"
        )
        return None
    return ActionClient(node, ExecuteInstruction, "execute_instruction")
