"""An action client that sends goals without waiting (the newest wins) and reports refusals.

A server that is killed or restarted never answers what it was sent. So its answer is not waited for any
longer, and ``holds_goal`` says that the server that is there now has been told nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.task import Future

from openvla_ros.drivers.readiness.subscribers import Restarts

ANSWER_S = 5.0  # a server that is there accepts or refuses a goal within milliseconds


class ActionGoal:
    """Sends goals to one action server; a newer goal replaces the one in progress.

    A goal sent before the server has answered the last one is queued; only the newest is kept.
    ``problem`` is what became of the last goal if it was refused, aborted or lost.
    """

    def __init__(
        self, node: Node, action_type: Any, name: str, say: Callable[[str], object] | None = None
    ) -> None:
        """``name`` is the action's full name; ``say`` is told each problem as it arises."""
        self.name = name
        self._node, self._say = node, say
        self._client = ActionClient(node, action_type, name)
        self._servers = Restarts()
        self._answer: Future | None = None
        self._asked_s = 0.0  # monotonic, when the unanswered goal was sent
        self._result: Future | None = None
        self._handle: Any = None
        self._next: Any = None
        self._refused = False
        self.problem: str | None = None
        # Whether the server that is there has the last goal; False again some time after it refused it.
        self.holds_goal = False

    def is_there(self) -> bool:
        """Return whether the server is available."""
        return bool(self._client.server_is_ready())

    def check(self) -> str | None:
        """Give up on what was sent to a server that has gone, or does not answer; return the problem.

        Called about once a second, and before each goal.
        """
        status = self._node.get_publishers_info_by_topic(f"{self.name}/_action/status")
        if self._servers.noticed(status) or not self.is_there():
            self._forget(f"{self.name} went away before it answered")
        elif self._answer is not None and time.monotonic() - self._asked_s > ANSWER_S:
            self._forget(f"{self.name} has not answered a goal for {ANSWER_S:g} s")
        elif self._refused:
            self.holds_goal = False  # it may accept the goal later: a controller that is active by then
        return self.problem

    def send(self, goal: Any) -> None:
        """Send ``goal`` as soon as the server has answered the one before."""
        self.check()
        self._next, self.holds_goal, self._refused = goal, True, False
        self._advance()

    def cancel(self) -> None:
        """Cancel the goal in progress."""
        self._next = None
        if self._handle is not None:
            self._handle.cancel_goal_async()

    def destroy(self) -> None:
        """Destroy the client."""
        self._client.destroy()

    def _forget(self, problem: str) -> None:
        """Wait for nothing any longer; ``problem`` says why if a goal was waiting for its answer."""
        answer, result = self._answer, self._result
        self._answer = self._result = self._handle = self._next = None
        self.holds_goal = False
        for future in (answer, result):
            if future is not None:
                future.cancel()
        if answer is not None:
            self._fail(problem)

    def _fail(self, problem: str) -> None:
        self.problem = problem
        if self._say is not None:
            self._say(problem)

    def _advance(self) -> None:
        if self._next is None or self._answer is not None:
            return
        goal, self._next = self._next, None
        self._answer, self._asked_s = self._client.send_goal_async(goal), time.monotonic()
        self._answer.add_done_callback(self._answered)

    def _answered(self, future: Future) -> None:
        if self._answer is None or future is not self._answer:
            return  # given up
        self._answer = None
        handle = future.result()
        if not handle.accepted:
            self._refused = True
            self._fail(f"{self.name} refused the goal")
        else:
            self.problem, self._handle = None, handle
            self._result = handle.get_result_async()
            self._result.add_done_callback(lambda done: self._ended(handle, done))
        self._advance()

    def _ended(self, handle: Any, future: Future) -> None:
        if handle is not self._handle:
            return  # a newer goal replaced it, or its server went away
        self._handle = self._result = None
        response = future.result()
        refused = response.status == GoalStatus.STATUS_ABORTED or not getattr(
            response.result, "success", True
        )
        if refused:
            self._fail(f"{self.name}: {getattr(response.result, 'error', '') or 'aborted'}")
        else:
            self.problem = None
