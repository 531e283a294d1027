"""A short-lived node for programs that ask something of a running robot, and then end."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

import rclpy
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from openvla_ros.errors import DeviceError
from openvla_ros.ros.start import start_ros

READY_TIMEOUT_S = 10.0


class Session:
    """A node, spun only while its program waits for something."""

    def __init__(self, name: str, namespace: str = "", use_sim_time: bool = False) -> None:
        self._context = Context()
        start_ros(context=self._context)
        clock = [Parameter("use_sim_time", value=use_sim_time)]
        self.node: Node = rclpy.create_node(
            name, namespace=namespace, context=self._context, parameter_overrides=clock
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._clients: dict[str, Client] = {}

    @property
    def now_ns(self) -> int:
        """The robot's time."""
        return int(self.node.get_clock().now().nanoseconds)

    def wait_for_clock(self) -> None:
        """Wait until there is a time at all; raises ``DeviceError`` if no ``/clock`` comes."""
        if not self.spin_until(lambda: self.now_ns > 0, READY_TIMEOUT_S):
            raise DeviceError("nobody publishes /clock; leave out --use-sim-time on a real robot")

    def spin_until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Serve callbacks until ``done()``, at most ``timeout_s`` of the wall's seconds; return which."""
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline:
                return False
            self._executor.spin_once(timeout_sec=0.01)
        return True

    def reach_controller(self, service: str) -> Client:
        """Return the client of ``controller/<service>``, connected: asking it later takes no time.

        Raises ``DeviceError`` if the controller is not there.
        """
        if service not in self._clients:
            self._clients[service] = self.node.create_client(Trigger, f"controller/{service}")
        client = self._clients[service]
        if not self.spin_until(client.service_is_ready, READY_TIMEOUT_S):
            name = self.node.resolve_service_name(client.srv_name)
            raise DeviceError(f"no service {name}: is the controller running?")
        return client

    def ask_controller(self, service: str) -> str:
        """Call ``controller/<service>`` and return its answer.

        Raises ``DeviceError`` if the controller is not there, does not answer, or refuses.
        """
        client = self.reach_controller(service)
        future = client.call_async(Trigger.Request())
        if not self.spin_until(future.done, READY_TIMEOUT_S):
            raise DeviceError(f"{client.srv_name} does not answer")
        answer = future.result()
        if not answer.success:
            raise DeviceError(f"{client.srv_name} refused: {answer.message}")
        return str(answer.message)

    def close(self) -> None:
        """End the node."""
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
