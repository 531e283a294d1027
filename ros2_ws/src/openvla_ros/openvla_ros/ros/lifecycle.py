"""Lifecycle nodes whose transitions never fail silently, on every supported release of rclpy.

rclpy answers an exception in a transition's callback with an error and drops its text (7.1.6, 9.1.2:
``lifecycle/node.py``, ``__execute_callback``). Up to 7.1.6 it also lets the exception of a transition
that the current state does not allow end the process instead of answering "no" (``__change_state``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.lifecycle import LifecycleNode as RclpyLifecycleNode
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn

from openvla_ros.errors import describe

TRANSITIONS = ("on_configure", "on_activate", "on_deactivate", "on_cleanup", "on_shutdown", "on_error")
Transition = Callable[[Any, LifecycleState], TransitionCallbackReturn]


class LifecycleNode(RclpyLifecycleNode):
    """A lifecycle node that reports failures; ``problem`` is the last transition's, or empty."""

    problem = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in TRANSITIONS:
            if name in cls.__dict__:
                setattr(cls, name, _telling(cls.__dict__[name]))

    def __init__(self, node_name: str, **kwargs: Any) -> None:
        super().__init__(node_name, **kwargs)
        for service in self.services:
            if service.srv_type is ChangeState:
                service.callback = self._answering(service.callback)

    def fail(self, problem: str) -> TransitionCallbackReturn:
        """Log ``problem`` and return the result of a failed transition."""
        self.problem = problem
        self.get_logger().error(problem)
        return TransitionCallbackReturn.FAILURE

    def _answering(self, change_state: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Return ``change_state`` wrapped to answer "no" if a refused transition raises."""

        @functools.wraps(change_state)
        def answer(request: Any, response: Any) -> Any:
            try:
                return change_state(request, response)
            except _rclpy.RCLError as error:
                wanted = request.transition.label or request.transition.id
                self.get_logger().error(f"transition {wanted} is not possible now: {error}")
                response.success = False
                return response

        return answer


def _telling(transition: Transition) -> Transition:
    @functools.wraps(transition)
    def told(self: LifecycleNode, state: LifecycleState) -> TransitionCallbackReturn:
        self.problem = ""
        try:
            return transition(self, state)
        except Exception as error:
            self.problem = f"{transition.__name__[3:]} failed: {describe(error)}"
            self.get_logger().error(self.problem)
            raise

    return told
