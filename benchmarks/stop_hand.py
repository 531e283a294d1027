"""Who asks for a stop in ``bench_stop``, and sees at the driver's end when the arm begins to brake."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from numpy.typing import NDArray
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from stop_sessions import Controller
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.profile import RobotProfile
from openvla_ros.ros import qos
from openvla_ros.values.arrays import Float

GIVE_UP_S = 30.0
SHARES = np.linspace(0.0, 1.0, 51)  # where the motion between two points is looked at


@dataclass(frozen=True, eq=False)
class Arrived:
    """A command that has arrived: when each of its points is due, and the motion there."""

    at_ns: int
    due_ns: NDArray[np.int64]  # (N,)
    positions: Float  # (N, J) rad
    velocities: Float  # (N, J) rad/s

    @classmethod
    def of(cls, message: JointTrajectory, at_ns: int) -> Arrived:
        """Return what a message says that arrived at ``at_ns``."""
        start_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        times = [point.time_from_start for point in message.points]
        return cls(
            at_ns,
            start_ns + np.array([time.sec * 10**9 + time.nanosec for time in times]),
            np.array([point.positions for point in message.points]),
            np.array([point.velocities for point in message.points]),
        )

    @property
    def speed(self) -> float:
        """Return the speed of the fastest joint at the first point, rad/s."""
        return float(np.abs(self.velocities[0]).max())

    def until_ns(self, speed: float) -> float:
        """Return when a joint is last this fast on the cubics between the points; 0 if none is."""
        length_s = 1e-9 * np.diff(self.due_ns)[:, None, None]  # (N - 1, 1, 1)
        way = np.diff(self.positions, axis=0)[:, None] / length_s
        v0, v1 = self.velocities[:-1, None], self.velocities[1:, None]
        u = SHARES[None, :, None]  # of a segment
        between = 6 * (u - u**2) * way + (1 - 4 * u + 3 * u**2) * v0 + (3 * u**2 - 2 * u) * v1
        fast = np.abs(between).max(axis=2) >= speed  # (N - 1, len(SHARES))
        due = self.due_ns[:-1, None] + SHARES * np.diff(self.due_ns)[:, None]
        return float(due[fast].max(initial=0.0))


class Hand:
    """Requests the stops and listens at the driver's end of the command topic."""

    def __init__(self, profile: RobotProfile) -> None:
        self.node = rclpy.create_node("hand")
        names = ("hold", "e_stop", "reset_e_stop", "give_to_policy", "home", "park")
        self.clients = {name: self.node.create_client(Trigger, f"controller/{name}") for name in names}
        self.clients["bare"] = self.node.create_client(Trigger, "bare")
        self.button = self.node.create_publisher(Bool, "e_stop", qos.COMMAND)
        topic = profile.arm_backend.topic
        self.commands = self.node.create_subscription(JointTrajectory, topic, lambda _: None, 100)
        self.diagnostics = self.node.create_subscription(
            DiagnosticArray, "/diagnostics", lambda _: None, qos.DIAGNOSTICS
        )
        self.arrived: list[Arrived] = []

    def wait_until_there(self, controller: Controller) -> None:
        """Wait for the controller and the bare service."""

        def there() -> bool:
            controller.check()
            services = all(client.service_is_ready() for client in self.clients.values())
            return services and self.button.get_subscription_count() > 0

        wait(there, GIVE_UP_S, "the controller's services")

    def wait_until_gone(self) -> None:
        """Wait until the middleware reports that the controller has ended."""

        def gone() -> bool:
            there = [c.service_is_ready() for name, c in self.clients.items() if name != "bare"]
            return not any(there) and self.button.get_subscription_count() == 0

        wait(gone, GIVE_UP_S, "the controller's end")

    def ask(self, name: str) -> tuple[int, int, Trigger.Response]:
        """Call a service; return the times of the request and of the answer (ns), and the answer."""
        client = self.clients[name].handle
        asked_ns = time.time_ns()
        with client:
            client.send_request(Trigger.Request())
            end = time.monotonic() + GIVE_UP_S
            while time.monotonic() < end:
                info, response = client.take_response(Trigger.Response)
                if response is not None:
                    return asked_ns, info.received_timestamp, response
                time.sleep(0.0003)
        raise TimeoutError(f"{name} did not answer within {GIVE_UP_S:.0f} s")

    def press(self) -> int:
        """Press the button; return the time, ns."""
        asked_ns = time.time_ns()
        self.button.publish(Bool(data=True))
        return asked_ns

    def take_commands(self) -> None:
        """Record every command that has arrived."""
        with self.commands.handle:
            while (taken := self.commands.handle.take_message(JointTrajectory, False)) is not None:
                message, info = taken
                if message.points and len(message.points[0].velocities):
                    self.arrived.append(Arrived.of(message, info["received_timestamp"]))

    def granted(self) -> str:
        """Return what the controller reports about its scheduling."""
        found: dict[str, str] = {}
        with self.diagnostics.handle:  # reports of the previous controller
            while self.diagnostics.handle.take_message(DiagnosticArray, True) is not None:
                pass

        def said() -> bool:
            with self.diagnostics.handle:
                while (taken := self.diagnostics.handle.take_message(DiagnosticArray, False)) is not None:
                    for status in taken[0].status:
                        if status.name.endswith("control period"):
                            found.update({v.key: v.value for v in status.values})
            return bool(found)

        wait(said, GIVE_UP_S, "diagnostics")
        keys = ("scheduling", "niceness", "memory")
        return "; ".join(f"{key} {found[key]}" for key in keys if key in found)


def wait(done: Callable[[], bool], timeout_s: float, what: str) -> None:
    end = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.001)
