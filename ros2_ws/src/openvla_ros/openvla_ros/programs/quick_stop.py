"""Asking a running controller for a stop as fast as a new process can, and seeing that it stopped.

A client to itself beside ``discovery.client``, because a person waits for it: it imports nothing but rclpy
and three message types, its node has no services and no log topic to be discovered, and it looks at its
executor five times as often. A new process must first be discovered by the controller, which takes most of
the time. Whoever wants to stop an arm faster keeps something running that has been discovered already
(docs/safety.md).
"""

from __future__ import annotations

import os
import time
from types import TracebackType

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from openvla_ros.bringup.enclaves import OPERATOR, enclave_arguments
from openvla_ros.errors import DeviceError
from openvla_ros.ros import qos
from openvla_ros.ros.start import making_nodes, start_ros

CONFIRM_S = 10.0
# The button's topic is the second way: used while the service is not there, or has not answered for so
# long; then again and again until the controller confirms, because who hears it first may be another.
PRESS_AFTER_S = PRESS_PERIOD_S = 0.02
LET_GO_S = 1.0
SPIN_S = 0.002
# What the service is called, and the state that the controller reports once it has stopped.
E_STOP = "e_stop"


class QuickStop:
    """A small node that asks for ``hold``, or for ``e_stop`` by the service and the button's topic."""

    def __init__(self, service: str, namespace: str = "") -> None:
        self._context = Context()
        identity = enclave_arguments(os.environ, namespace, OPERATOR)
        start_ros(["--ros-args", *identity] if identity else None, context=self._context)
        with making_nodes():
            self._node: Node = rclpy.create_node(
                f"stop_now_{os.getpid()}",
                namespace=namespace,
                context=self._context,
                enable_rosout=False,
                start_parameter_services=False,
                parameter_overrides=[Parameter("start_type_description_service", value=False)],
            )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._client = self._node.create_client(Trigger, f"controller/{service}")
        self._button = self._node.create_publisher(Bool, E_STOP, qos.COMMAND) if service == E_STOP else None
        if self._button is not None:
            # Not latched: what the controller said earlier may be from before a reset.
            self._node.create_subscription(
                DiagnosticStatus, "controller/verdict", self._note_verdict, qos.COMMAND
            )
        self._begin()

    def reach(self, timeout_s: float = CONFIRM_S) -> None:
        """Wait until the controller knows this process; raises ``DeviceError`` if none does in time."""
        end = time.monotonic() + timeout_s
        while not self._client.service_is_ready():
            if time.monotonic() > end:
                raise DeviceError(self._nobody())
            self._executor.spin_once(timeout_sec=SPIN_S)

    def ask(self, timeout_s: float = CONFIRM_S) -> str:
        """Stop the arm; return what the controller said. Raises ``DeviceError`` if none confirmed in time."""
        self._let_go()
        self._begin()
        end = time.monotonic() + timeout_s
        while not self._confirmed:
            if time.monotonic() > end:
                asked = self._future is not None or self._pressed_s
                what = f"{self._service} does not answer" if asked else self._nobody()
                raise DeviceError(f"NOT STOPPED within {timeout_s:g} s: {what}")
            self._advance()
            self._executor.spin_once(timeout_sec=SPIN_S)
        return self._confirmed

    def close(self) -> None:
        """Let the button go and end the node; the arm stays stopped."""
        self._let_go()
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    @property
    def _service(self) -> str:
        return str(self._node.resolve_service_name(self._client.srv_name))

    def _nobody(self) -> str:
        return f"no service {self._service}: is the controller running, in this namespace?"

    def _begin(self) -> None:
        self._confirmed = ""  # what the controller said
        self._future: Future | None = None
        self._asked_s = 0.0  # when the service was asked
        self._pressed_s = 0.0  # when the button was pressed last

    def _advance(self) -> None:
        """Ask in every way that the controller can hear by now."""
        now_s = time.monotonic()
        if self._future is None and self._client.service_is_ready():
            self._future, self._asked_s = self._client.call_async(Trigger.Request()), now_s
        due = now_s - self._pressed_s > PRESS_PERIOD_S and now_s - self._asked_s > PRESS_AFTER_S
        if self._button is not None and due and self._button.get_subscription_count():
            self._button.publish(Bool(data=True))
            self._pressed_s = now_s
        if self._future is not None and self._future.done():
            self._note_answer(self._future.result())

    def _let_go(self) -> None:
        """Release the button, so that the emergency stop can be reset."""
        if self._button is not None and self._pressed_s:
            self._button.publish(Bool(data=False))
            self._button.wait_for_all_acked(Duration(seconds=LET_GO_S))

    def _note_answer(self, answer: Trigger.Response | None) -> None:
        if answer is None or self._confirmed:
            return
        if not answer.success:
            raise DeviceError(f"{self._service} refused: {answer.message}")
        self._confirmed = str(answer.message)

    def _note_verdict(self, message: DiagnosticStatus) -> None:
        values = {value.key: value.value for value in message.values}
        if values.get("state") == E_STOP:
            self._confirmed = self._confirmed or str(message.message)

    def __enter__(self) -> QuickStop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
