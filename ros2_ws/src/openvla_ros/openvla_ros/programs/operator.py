"""The operator's side: tell the robot what to do in words, and see how that ends.

Uses only what any ROS user could: the ``ExecuteInstruction`` action, or the latched instruction topic where
its types are not built. ``openvla tell`` and the demo are built on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from rclpy.action import ActionClient
from rclpy.task import Future
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.bringup.stop_signals import interruptible
from openvla_ros.discovery.client import RobotClient
from openvla_ros.profile import RobotProfile
from openvla_ros.programs.measurements import Measurements
from openvla_ros.ros import qos
from openvla_ros.ros.messages import from_duration, to_duration
from openvla_ros.streams.instruction_run import SUCCESS
from openvla_ros.values.time import seconds

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
class _Run:
    """An instruction from when it was given until it has ended."""

    instruction: str
    time_limit_s: float
    started_ns: int
    handle: Any = None  # of the action's goal, once it is accepted
    cancelled: bool = False
    steps: int = 0
    outcome: Outcome | None = None

    def ended(self, outcome: str, message: str, steps: int, duration_s: float) -> None:
        self.outcome = Outcome(self.instruction, outcome, message, steps, duration_s)


class _Way(Protocol):
    """A way to give instructions to the policy node."""

    def missing(self) -> list[str]:
        """Return what is not there yet for this way."""

    def begin(self, run: _Run) -> None:
        """Have the instruction carried out."""

    def look(self, run: _Run) -> None:
        """See whether it has ended."""

    def cancel(self, run: _Run) -> None:
        """Stop carrying it out."""


class Operator:
    """Gives instructions through ``client`` and measures; the client's waits do the work."""

    def __init__(self, client: RobotClient, profile: RobotProfile) -> None:
        self.client, self._profile = client, profile
        self.measured = Measurements(client, profile)
        self.success = False  # the robot's own signal, since the newest words
        self.on_step: Callable[[int, str], None] = lambda step, verdict: None
        self._words = client.latched(String, "instruction")
        self._run: _Run | None = None
        self._way: _Way = _way(self)
        client.node.create_subscription(Bool, "task/success", self._success, qos.COMMAND)

    def missing(self) -> list[str]:
        """Return what is not there yet for an instruction to be given; empty when ready."""
        return [*self._way.missing(), *self.measured.missing()]

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait for the robot's nodes; raises ``DeviceError`` naming those that are missing."""
        self.client.require(
            lambda: not self.missing(),
            timeout_s,
            lambda: f"robot {self._profile.name!r} is not up: missing {', '.join(self.missing())}",
        )

    def tell(self, instruction: str, time_limit_s: float) -> None:
        """Start carrying out ``instruction``; ``outcome`` says when it has ended."""
        self.success = False
        self._run = _Run(instruction, time_limit_s, self.client.now_ns)
        self._way.begin(self._run)

    def outcome(self) -> Outcome | None:
        """Return how the newest instruction ended, or ``None`` while it is being carried out."""
        if self._run is not None and self._run.outcome is None:
            self._way.look(self._run)
        return self._run.outcome if self._run is not None else None

    def wait_for_outcome(self, timeout_s: float) -> Outcome:
        """Wait until the newest instruction has ended; raises ``DeviceError`` if that is not heard."""
        self.client.require(
            lambda: self.outcome() is not None,
            timeout_s,
            lambda: "the policy node did not say how the instruction ended",
        )
        outcome = self.outcome()
        assert outcome is not None
        return outcome

    def carry_out(self, instruction: str, time_limit_s: float) -> Outcome:
        """Tell the robot and wait for how it ends; raises ``DeviceError`` if that is not heard."""
        self.tell(instruction, time_limit_s)
        return self.wait_for_outcome(time_limit_s + self.client.timeout_s)

    def cancel(self) -> None:
        """Stop carrying out the instruction."""
        if self._run is not None:
            self._way.cancel(self._run)

    def say(self, words: str) -> None:
        """Publish the instruction topic; an empty text ends what is being done."""
        self.success = False
        self._words.publish(String(data=words))

    def hold(self) -> None:
        """End what the instruction topic asked for and have the controller hold; waits for nothing."""
        self._words.publish(String(data=""))
        self.client.service("controller/hold").call_async(Trigger.Request())

    def _success(self, message: Bool) -> None:
        self.success = self.success or message.data


class _ByAction:
    """Instructions as goals of ``ExecuteInstruction``: the policy node says how they end."""

    def __init__(self, operator: Operator, action: Any) -> None:
        self._operator, self._action = operator, action
        self._client = ActionClient(operator.client.node, action, "execute_instruction")

    def missing(self) -> list[str]:
        return [] if self._client.server_is_ready() else ["the policy's execute_instruction server"]

    def begin(self, run: _Run) -> None:
        goal = self._action.Goal(instruction=run.instruction, time_limit=to_duration(run.time_limit_s))
        sent = self._client.send_goal_async(goal, feedback_callback=self._feedback)
        sent.add_done_callback(partial(self._accepted, run))

    def look(self, run: _Run) -> None:
        """Nothing: the result is sent."""

    def cancel(self, run: _Run) -> None:
        run.cancelled = True
        if run.handle is not None:
            run.handle.cancel_goal_async()

    def _accepted(self, run: _Run, future: Future) -> None:
        handle = future.result()
        if not handle.accepted:
            run.ended("refused", "the policy node refused the goal", 0, 0.0)
            return
        run.handle = handle
        if run.cancelled:  # before the policy node had answered
            handle.cancel_goal_async()
        handle.get_result_async().add_done_callback(partial(self._finished, run))

    def _finished(self, run: _Run, future: Future) -> None:
        result = future.result().result
        duration_s = from_duration(result.duration)
        run.ended(str(result.outcome), str(result.message), int(result.steps), duration_s)

    def _feedback(self, message: Any) -> None:
        feedback = message.feedback
        self._operator.measured.inference.add(float(feedback.inference_latency_s))
        self._operator.on_step(int(feedback.step), str(feedback.verdict))


class _ByTopic:
    """Instructions on the latched topic: how they end is judged here, by success and time."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._run: _Run | None = None
        self._listens = False
        self._node = operator.client.node
        self._node.create_subscription(String, "policy/instruction", self._policy_speaks, qos.LATCHED)
        self._node.create_subscription(JointTrajectory, "policy/action_chunk", self._chunk, qos.COMMAND)

    def missing(self) -> list[str]:
        # The topic is there a little before the policy listens: words that were given in between are too
        # old for it. Its first word there says that it does.
        listens = self._listens and self._node.count_publishers("policy/instruction")
        return [] if listens else ["a policy that listens to instruction"]

    def begin(self, run: _Run) -> None:
        self._run = run
        self._operator.say(run.instruction)

    def look(self, run: _Run) -> None:
        elapsed_s = seconds(self._operator.client.now_ns - run.started_ns)
        if self._operator.success:
            run.ended("succeeded", SUCCESS, run.steps, elapsed_s)
        elif elapsed_s > run.time_limit_s:
            words = f"the time limit of {run.time_limit_s:g} s was reached"
            run.ended("time_limit", words, run.steps, elapsed_s)
        if run.outcome is not None:
            self._operator.hold()

    def cancel(self, run: _Run) -> None:
        self._operator.hold()

    def _policy_speaks(self, _message: String) -> None:
        self._listens = True

    def _chunk(self, _message: JointTrajectory) -> None:
        if self._run is not None:
            self._run.steps += 1
            self._operator.on_step(self._run.steps, "")


def _way(operator: Operator) -> _Way:
    """Return the action, or the topic (with a word in the log) where the action is not built."""
    try:
        from openvla_interfaces.action import ExecuteInstruction
    except ImportError:
        operator.client.node.get_logger().warning(
            "openvla_interfaces is not built: using the instruction topic instead of the action"
        )
        return _ByTopic(operator)
    return _ByAction(operator, ExecuteInstruction)


def tell_robot(
    profile: RobotProfile,
    namespace: str,
    instruction: str,
    time_limit_s: float,
    on_step: Callable[[int, str], None],
) -> Outcome:
    """Tell a running robot what to do and return how it ended; an interrupt, TERM or HUP cancels first.

    ``on_step`` is called after each step with its number and the controller's verdict.

    Raises ``DeviceError`` naming what is missing if the robot's nodes do not show up.
    """
    with interruptible(), RobotClient("operator", namespace, timeout_s=READY_TIMEOUT_S) as client:
        operator = Operator(client, profile)
        operator.on_step = on_step
        operator.wait_until_ready(READY_TIMEOUT_S)
        try:
            return operator.carry_out(instruction, time_limit_s)
        except KeyboardInterrupt:
            operator.cancel()
            return operator.wait_for_outcome(READY_TIMEOUT_S)
