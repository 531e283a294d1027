"""The client of a running robot: a short-lived node for programs that ask something of it, and then end.

Whatever a program does with the robot's nodes from outside goes through here: it waits with a limit, calls
services, sets parameters, listens. What it asks for is its own: ``programs/`` builds on this.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.client import Client
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from rclpy.publisher import Publisher
from std_srvs.srv import Trigger

from openvla_ros.bringup.enclaves import OPERATOR, enclave_arguments
from openvla_ros.errors import DeviceError, InvalidValueError
from openvla_ros.ros import qos
from openvla_ros.ros.executor import StaticSingleThreadedExecutor
from openvla_ros.ros.start import making_nodes, start_ros
from openvla_ros.ros.verdict_messages import NAME as VERDICT
from openvla_ros.ros.verdict_messages import VerdictReport, from_verdict_message

READY_TIMEOUT_S = 10.0
# How long a wait may go without a look at what it waits for, while nothing arrives.
WAKE_S = 0.01
# How often a program's own ``look`` is called during a wait, however much arrives.
LOOK_PERIOD_S = 0.02
# Verdicts that cannot be read are logged this often.
LOG_PERIOD_S = 5.0


class RobotClient:
    """A node with a context and an executor to itself, spun only while its program waits for something."""

    def __init__(
        self,
        name: str,
        namespace: str = "",
        use_sim_time: bool = False,
        timeout_s: float = READY_TIMEOUT_S,
        hint: str = "",
        look: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the node; raises ``OpenVLARosError`` if ROS cannot start.

        ``timeout_s`` is the wall time that a service may take to appear, and again to answer. ``hint`` is
        added to the errors of waits that were in vain. ``look`` is called during every wait; what it raises
        ends the wait.
        """
        self.timeout_s = timeout_s
        self._hint, self._look, self._looked_s = f"; {hint}" if hint else "", look, 0.0
        self._context = Context()
        identity = enclave_arguments(os.environ, namespace, OPERATOR)
        start_ros(["--ros-args", *identity] if identity else None, context=self._context)
        own = {"use_sim_time": use_sim_time, "start_type_description_service": False}
        with making_nodes():
            self.node: Node = rclpy.create_node(
                name,
                namespace=namespace,
                context=self._context,
                parameter_overrides=[Parameter(key, value=value) for key, value in own.items()],
                start_parameter_services=False,  # nobody asks it, and it serves nothing that needs a right
            )
        self._executor = StaticSingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._services: dict[str, Client] = {}
        self._parameters: dict[str, AsyncParameterClient] = {}

    @property
    def now_ns(self) -> int:
        """The robot's time."""
        return int(self.node.get_clock().now().nanoseconds)

    # Waiting

    def wait(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Serve callbacks until ``done()``, for at most ``timeout_s`` of wall time.

        Returns whether it came true. It is asked after every callback: it should be quick.
        """
        deadline_s = time.monotonic() + timeout_s
        while not done():
            now_s = time.monotonic()
            if now_s > deadline_s:
                return False
            if now_s - self._looked_s >= LOOK_PERIOD_S:
                self._looked_s = now_s
                self._look()
            self._executor.spin_once(timeout_sec=WAKE_S)
        return True

    def require(self, done: Callable[[], bool], timeout_s: float, problem: Callable[[], str]) -> None:
        """Wait as ``wait`` does; raises ``DeviceError`` with ``problem()`` if it was in vain."""
        if not self.wait(done, timeout_s):
            raise DeviceError(problem() + self._hint)

    def listen(self, seconds: float) -> None:
        """Serve callbacks for a while."""
        self.wait(lambda: False, seconds)

    def wait_for_clock(self) -> None:
        """Wait until there is a time at all; raises ``DeviceError`` if no ``/clock`` comes."""
        problem = "nobody publishes /clock; leave out --use-sim-time on a real robot"
        self.require(lambda: self.now_ns > 0, READY_TIMEOUT_S, lambda: problem)

    # Topics

    def latched(self, kind: type, topic: str) -> Publisher:
        """Return a publisher whose newest message also reaches those who come later."""
        return self.node.create_publisher(kind, topic, qos.LATCHED)

    def hear_verdicts(self, heard: Callable[[VerdictReport], None], earlier: bool) -> None:
        """Have ``heard`` called with every verdict of the controller from now on.

        With ``earlier``, first with those that the controller has latched. What is no verdict is logged.
        """
        profile = qos.VERDICT if earlier else qos.COMMAND
        self.node.create_subscription(DiagnosticStatus, VERDICT, partial(self._verdict, heard), profile)

    def _verdict(self, heard: Callable[[VerdictReport], None], message: DiagnosticStatus) -> None:
        try:
            report = from_verdict_message(message)
        except InvalidValueError as error:
            self.node.get_logger().warning(f"{VERDICT}: {error}", throttle_duration_sec=LOG_PERIOD_S)
            return
        heard(report)

    # Services and parameters

    def service(self, service: str) -> Client:
        """Return the client of the ``std_srvs/Trigger`` called ``service``, whether it is there or not."""
        if service not in self._services:
            self._services[service] = self.node.create_client(Trigger, service)
        return self._services[service]

    def reach(self, service: str) -> Client:
        """Return the client of ``service``, connected: asking it later takes no time.

        Raises ``DeviceError`` if nobody offers it.
        """
        client = self.service(service)
        name, owner = self.node.resolve_service_name(service), service.partition("/")[0]
        self.require(
            client.service_is_ready, self.timeout_s, lambda: f"no service {name}: is the {owner} running?"
        )
        return client

    def ask(self, service: str) -> Trigger.Response:
        """Call ``service`` and return its answer; raises ``DeviceError`` if there is none."""
        future = self.reach(service).call_async(Trigger.Request())
        self.require(future.done, self.timeout_s, lambda: f"{service} does not answer")
        return future.result()

    def order(self, service: str) -> str:
        """Call ``service`` and return what it says.

        Raises ``DeviceError`` if it is not there, does not answer, or refuses.
        """
        answer = self.ask(service)
        if not answer.success:
            raise DeviceError(f"{service} refused: {answer.message}")
        return str(answer.message)

    def set_parameter(self, node: str, name: str, value: str | int | float) -> None:
        """Set a parameter of a running node; raises ``DeviceError`` with its reason if it refuses."""
        if node not in self._parameters:
            self._parameters[node] = AsyncParameterClient(self.node, node)
        client = self._parameters[node]
        self.require(
            client.services_are_ready, self.timeout_s, lambda: f"no node {node} with parameters was found"
        )
        future = client.set_parameters([Parameter(name, value=value)])
        self.require(future.done, self.timeout_s, lambda: f"{node} does not answer")
        (result,) = future.result().results
        if not result.successful:
            raise DeviceError(f"{node} refuses {name} = {value!r}: {result.reason}")

    # The end

    def close(self) -> None:
        """End the node."""
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def __enter__(self) -> RobotClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
