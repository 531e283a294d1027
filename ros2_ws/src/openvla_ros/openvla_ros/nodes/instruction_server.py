"""The ``execute_instruction`` action: a goal becomes an ``Assignment``, its outcome the result.

Needs the package ``openvla_interfaces``; if it is not built, ``import_action`` says so, and the latched
instruction topic can be used instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.node import Node
from rclpy.task import Future

from openvla_ros.errors import MissingDependencyError
from openvla_ros.ros.messages import LARGEST_INSTRUCTION_BYTES, from_duration, to_duration
from openvla_ros.streams.assignment import Assignment, Ending, Outcome, StepReport

NAME = "execute_instruction"


def import_action() -> Any:
    """Return the action's type; raises ``MissingDependencyError`` if it is not built."""
    try:
        from openvla_interfaces.action import ExecuteInstruction
    except ImportError as error:
        raise MissingDependencyError(
            f"the action {NAME} needs the package openvla_interfaces, which is not installed ({error}); "
            "the topic 'instruction' does the same, without feedback and result. To get the action, build "
            "ros2_ws/src/openvla_interfaces with colcon, or run 'make setup' with a C++ compiler installed"
        ) from error
    return ExecuteInstruction


class InstructionServer:
    """Serves the action on the node's executor; never blocks it.

    ``begin`` is called with each new assignment, ``end`` to end one that the client cancelled.
    """

    def __init__(
        self,
        node: Node,
        begin: Callable[[Assignment], None],
        end: Callable[[Assignment, Outcome, str], None],
        limits: Callable[[], tuple[float, float]],
    ) -> None:
        """``limits`` returns the default time limit and the give-up time, seconds."""
        self._node, self._begin, self._end, self._limits = node, begin, end, limits
        self._action = import_action()
        self._assignments: dict[bytes, Assignment] = {}
        self._server = ActionServer(
            node,
            self._action,
            NAME,
            execute_callback=self._execute,
            goal_callback=lambda request: GoalResponse.ACCEPT,
            cancel_callback=self._cancel,
        )

    def close(self) -> None:
        """Stop serving."""
        self._server.destroy()

    async def _execute(self, handle: Any) -> Any:
        finished: Future = Future(executor=self._node.executor)
        default_limit_s, give_up_s = self._limits()
        assignment = Assignment(
            str(handle.request.instruction),
            time.monotonic(),
            time_limit_s=from_duration(handle.request.time_limit) or default_limit_s,
            give_up_s=give_up_s,
            is_goal=True,
            report=lambda step: handle.publish_feedback(self._feedback(step)),
            ended=finished.set_result,
        )
        key = bytes(handle.goal_id.uuid)
        self._assignments[key] = assignment
        try:
            if len(assignment.instruction.encode()) > LARGEST_INSTRUCTION_BYTES:
                words = f"the instruction is longer than {LARGEST_INSTRUCTION_BYTES} bytes"
                assignment.end(Outcome.REFUSED, words, time.monotonic())
            else:
                self._begin(assignment)
            ending: Ending = await finished
        finally:
            del self._assignments[key]
        match ending.outcome:
            case Outcome.SUCCEEDED:
                handle.succeed()
            case Outcome.CANCELED if handle.is_cancel_requested:
                handle.canceled()
            case _:
                handle.abort()
        return self._action.Result(
            outcome=ending.outcome.value,
            message=ending.message,
            steps=ending.steps,
            duration=to_duration(ending.duration_s),
        )

    def _cancel(self, handle: Any) -> CancelResponse:
        assignment = self._assignments.get(bytes(handle.goal_id.uuid))
        if assignment is None:
            return CancelResponse.REJECT
        self._end(assignment, Outcome.CANCELED, "cancelled by the client")
        return CancelResponse.ACCEPT

    def _feedback(self, step: StepReport) -> Any:
        return self._action.Feedback(
            step=step.step,
            inference_latency_s=step.inference_s,
            observation_age_s=step.age_s,
            verdict=step.verdict,
            detail=step.detail,
        )
