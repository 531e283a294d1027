"""An action client that sends goals without waiting (the newest wins) and reports refusals."""

from __future__ import annotations

from typing import Any

from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.task import Future


class ActionGoal:
    """Sends goals to one action server; a newer goal replaces the one in progress.

    A goal sent before the server has answered the last one is queued; only the newest is kept.
    ``problem`` is the server's message about the last goal if it was refused or aborted.
    """

    def __init__(self, node: Node, action_type: Any, name: str) -> None:
        self.name = name
        self._client = ActionClient(node, action_type, name)
        self._answer: Future | None = None
        self._handle: Any = None
        self._next: Any = None
        self.problem: str | None = None

    def is_there(self) -> bool:
        """Return whether the server is available."""
        return bool(self._client.server_is_ready())

    def send(self, goal: Any) -> None:
        """Send ``goal`` as soon as the server has answered the one before."""
        self._next = goal
        self._advance()

    def cancel(self) -> None:
        """Cancel the goal in progress."""
        self._next = None
        if self._handle is not None:
            self._handle.cancel_goal_async()

    def destroy(self) -> None:
        """Destroy the client."""
        self._client.destroy()

    def _advance(self) -> None:
        if self._next is None or self._answer is not None:
            return
        goal, self._next = self._next, None
        self._answer = self._client.send_goal_async(goal)
        self._answer.add_done_callback(self._answered)

    def _answered(self, future: Future) -> None:
        self._answer = None
        handle = future.result()
        if not handle.accepted:
            self.problem = f"{self.name} refused the goal"
        else:
            self.problem, self._handle = None, handle
            handle.get_result_async().add_done_callback(lambda done: self._ended(handle, done))
        self._advance()

    def _ended(self, handle: Any, future: Future) -> None:
        if handle is not self._handle:
            return  # a newer goal replaced it
        self._handle = None
        response = future.result()
        refused = response.status == GoalStatus.STATUS_ABORTED or not getattr(
            response.result, "success", True
        )
        reason = getattr(response.result, "error", "") or "aborted"
        self.problem = f"{self.name}: {reason}" if refused else None
