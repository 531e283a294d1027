"""Attacks one node with the unusual messages of ``fuzz_nodes`` and judges the outcome."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import rclpy
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import ListParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from fuzz_targets import Process, Target
from fuzz_watch import COORDINATES, STATES, Watch
from odd_messages import OddMessages
from openvla_ros.profile import RobotProfile

ANSWER_S, START_S = 5.0, 60.0
MOVED_RAD = 0.02  # of the simulated joints, which sag a little under gravity
FLOOD_HZ = 1000.0
# Services that request motion, and requests that rightly end a node.
MOVES = ("controller/home", "controller/neutral", "controller/park")
# A lifecycle node's own transitions, and shutdown, after which nothing answers.
SPARED_TRANSITIONS = (5, 6, 7)
ALWAYS_OFFER = QoSProfile(
    depth=50, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


@dataclass
class Row:
    """The outcome for one node."""

    topics: int = 0
    services: int = 0
    sent: int = 0
    exits: int = 0
    unanswered: int = 0
    answer_ms: float = float("nan")
    diagnostics: bool = False
    refused: int = 0
    failed: dict[str, int] = field(default_factory=dict)  # refusals as callback_failed: bugs of ours
    watched: int = 0  # joint positions that were checked
    moved_rad: float = 0.0
    commanded_rad: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the node survived and answered, and nothing moved."""
        still = max(self.moved_rad, self.commanded_rad) <= MOVED_RAD
        return (
            not self.exits
            and not self.unanswered
            and self.diagnostics
            and self.answer_ms < 1e3 * ANSWER_S
            and self.watched > 0
            and still
        )


class Fuzz:
    """Sends messages to a node and watches how it reacts."""

    def __init__(
        self, messages: int, flood_s: float, seed: int, profile: RobotProfile, stack: ExitStack
    ) -> None:
        """Send ``messages`` to each node, and flood each topic for ``flood_s`` seconds."""
        self._messages, self._flood_s = messages, flood_s
        rclpy.init()
        stack.callback(rclpy.try_shutdown)
        self.node = rclpy.create_node("fuzz")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        stack.callback(self._executor.shutdown)
        self.watch = Watch(self.node, profile)
        self.odd: OddMessages | None = None
        self._rng = np.random.default_rng(seed)

    def spin(self, seconds: float, done: Callable[[], Any] = lambda: False) -> bool:
        """Serve callbacks for ``seconds`` or until ``done()``; return whether ``done()`` became true."""
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.01)
        return bool(done())

    def ready(self, target: Target) -> bool:
        """Wait until the node has published its diagnostics."""
        name = target.full_name.lstrip("/")
        return self.spin(START_S, lambda: name in self.watch.diagnosed_s)

    def attack(self, target: Target, process: Process) -> Row:
        """Send the messages to one node; return the outcome."""
        name, row = target.full_name.lstrip("/"), Row()
        witness = STATES if target.label == "simulated camera" else COORDINATES
        self.watch.begin(witness, commands=target.label != "simulation")
        topics = self._topics(target)
        services = self._services(target)
        row.topics, row.services = len(topics), len(services)
        to_topics = self._messages * 3 // 4 if topics else 0
        for i, (topic, kind) in enumerate(topics):
            row.sent += self._send(topic, kind, -(-to_topics // len(topics)), process)
            if i == 0:
                self.spin(0.1)
        row.unanswered += self._ask(services, self._messages - to_topics, process, row)
        began = time.monotonic()
        row.answer_ms = 1e3 * self._answers(target)
        row.diagnostics = self.spin(ANSWER_S, lambda: self.watch.diagnosed_s.get(name, 0.0) > began)
        row.exits = int(process.exit_code is not None)
        row.refused = self.watch.refused.get(name, 0)
        row.failed = self.watch.failed.get(name, {})
        row.watched = self.watch.seen["joints"]
        row.moved_rad, row.commanded_rad = self.watch.moved["joints"], self.watch.moved["commands"]
        return row

    def _topics(self, target: Target) -> list[tuple[str, type]]:
        listed = self.node.get_subscriber_names_and_types_by_node(target.name, target.namespace)
        found = [
            (topic, _type(types[0]))
            for topic, types in listed
            if topic not in ("/parameter_events", "/clock")
        ]
        return [(topic, kind) for topic, kind in found if kind is not None]

    def _services(self, target: Target) -> list[tuple[str, type]]:
        listed = self.node.get_service_names_and_types_by_node(target.name, target.namespace)
        found = [(name, _type(types[0])) for name, types in listed if not name.endswith(MOVES)]
        return [(name, kind) for name, kind in found if kind is not None]

    def _send(self, topic: str, kind: type, count: int, process: Process) -> int:
        publisher = self.node.create_publisher(kind, topic, ALWAYS_OFFER)
        self.spin(2.0, publisher.get_subscription_count)
        assert self.odd is not None
        sent = 0
        for _ in range(count):
            publisher.publish(self.odd.make(kind))
            sent += 1
            self.spin(0.005)
            if process.exit_code is not None:
                break
        flood = self.odd.make(kind)
        end, due = time.monotonic() + self._flood_s, time.monotonic()
        while time.monotonic() < end and process.exit_code is None:
            publisher.publish(flood)
            sent, due = sent + 1, due + 1.0 / FLOOD_HZ
            time.sleep(max(0.0, due - time.monotonic()))
        if kind is String:
            publisher.publish(String())  # to be carried out no longer
        self.spin(0.2)
        self.node.destroy_publisher(publisher)
        return sent

    def _ask(self, services: list[tuple[str, type]], count: int, process: Process, row: Row) -> int:
        """Send the requests; return how many stayed unanswered, even when sent a second time.

        A first request may arrive before DDS has discovered the client; its answer is then lost.
        """
        asked: list[tuple[str, Any, Any]] = []
        for name, kind in services:
            client = self.node.create_client(kind, name)
            if not self.spin(2.0, client.service_is_ready):
                continue
            asked += [(name, client, self._request(kind)) for _ in range(-(-count // len(services)))]
        row.sent += len(asked)
        for _ in range(2):
            asked = self._without_answer(asked, process)
        # A transition may have removed a service, such as policy/reload_adapter.
        asked = [question for question in asked if question[1].service_is_ready()]
        for name, _, request in asked:
            print(f"  no answer from {name} to {str(request)[:150]}")
        return len(asked)

    def _without_answer(
        self, asked: list[tuple[str, Any, Any]], process: Process
    ) -> list[tuple[str, Any, Any]]:
        """Send requests; return those that stay unanswered."""
        futures = []
        for _, client, request in asked:
            futures.append(client.call_async(request))
            self.spin(0.005)
        self.spin(ANSWER_S, lambda: all(f.done() for f in futures) or process.exit_code is not None)
        return [question for question, future in zip(asked, futures, strict=True) if not future.done()]

    def _request(self, kind: Any) -> Any:
        assert self.odd is not None
        request = self.odd.make(kind.Request)
        if hasattr(request, "transition"):
            spared = request.transition.id in SPARED_TRANSITIONS or "shutdown" in request.transition.label
            request.transition.id = 99 if spared else request.transition.id
        if kind is SetParameters:
            request.parameters = request.parameters[:20] + [self._parameter(name) for name in PARAMETERS]
        return request

    def _parameter(self, name: str) -> Parameter:
        """A parameter that a node may have, with an invalid value."""
        nan = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=float("nan"))
        words = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value="\n" * 1000)
        none = ParameterValue(type=ParameterType.PARAMETER_NOT_SET)
        lists = ParameterValue(type=ParameterType.PARAMETER_BYTE_ARRAY, byte_array_value=[b"\x00"] * 100)
        return Parameter(name=name, value=[nan, words, none, lists][self._rng.integers(4)])

    def _answers(self, target: Target) -> float:
        """Return the seconds that the node takes to answer a simple request; infinite if it does not."""
        client = self.node.create_client(ListParameters, f"{target.full_name}/list_parameters")
        began = time.monotonic()
        if not self.spin(ANSWER_S, client.service_is_ready):
            return float("inf")
        future = client.call_async(ListParameters.Request())
        return time.monotonic() - began if self.spin(ANSWER_S, future.done) else float("inf")


# Parameters that some of the nodes have.
PARAMETERS = (
    "real_time_factor",
    "playback_rate_hz",
    "jpeg_quality",
    "seed",
    "task",
    "robot",
    "adapter",
    "give_up_s",
    "loop",
)


def _type(name: str) -> type | None:
    """Return the class of ``package/msg/Name`` or ``package/srv/Name``; ``None`` if it cannot be imported."""
    package, folder, kind = name.split("/")
    module = import_module(f"{package}.{folder}")
    for ending in ("_SendGoal", "_GetResult"):
        if kind.endswith(ending):
            action = getattr(module, kind.removesuffix(ending)).Impl
            return getattr(action, f"{ending[1:]}Service")
    return getattr(module, kind, None)
