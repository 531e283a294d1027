"""Whether the robot's side of a driver is there, active and the same as before, and got the messages."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from rclpy.client import Client
from rclpy.duration import Duration
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.task import Future
from rclpy.topic_endpoint_info import TopicEndpointInfo

from openvla_ros.drivers.optional_messages import interface
from openvla_ros.errors import MissingDependencyError

LIST_CONTROLLERS = "controller_manager_msgs/srv/ListControllers"
# How often a controller manager is asked, and how long it may take to answer.
ASK_PERIOD_S, ANSWER_S = 2.0, 5.0


class Restarts:
    """Notices that another process has taken the place of the robot's side of a connection.

    One that is restarted within a second is never seen to be missing, and one that was killed is still
    listed for a while beside its successor. But each has its own endpoints, and the new one knows nothing
    of what was sent to the old one.
    """

    def __init__(self) -> None:
        self._known: frozenset[bytes] = frozenset()

    def noticed(self, endpoints: Iterable[TopicEndpointInfo]) -> bool:
        """Return whether, after others, an endpoint is listed that was not before."""
        found, known = frozenset(bytes(info.endpoint_gid) for info in endpoints), self._known
        self._known = found or known
        return bool(known) and not found <= known


class ControllerState:
    """Asks ros2_control's manager for the state of the controller that subscribes to a command topic.

    A controller subscribes from its configuration on and drops what comes while it is inactive
    (joint_trajectory_controller 2.50 to 6.8, ``on_configure``, ``subscriber_is_active_``): a subscriber alone
    does not say that the arm will move. Without controller_manager_msgs or a manager nothing is known.
    """

    def __init__(self, node: Node, topic: str, kind: str = "") -> None:
        """``topic`` is the controller's own, ``~/...``; one of a shared name is known by its ``kind``."""
        self._node, self._kind = node, kind
        space, _, name = node.resolve_topic_name(topic).rpartition("/")
        if not kind:
            space, _, name = space.rpartition("/")
        self._space, self._name = space, name
        self._service = f"{space}/controller_manager/list_controllers"
        self._client: Client | None = None
        self._future: Future | None = None
        self._asked_s = -ASK_PERIOD_S
        self._state: str | None = None
        try:
            self._type = interface(LIST_CONTROLLERS, "the state of controllers")
        except MissingDependencyError:
            self._type = None

    @property
    def is_known(self) -> bool:
        """Whether the manager has told the controller's state."""
        return self._state is not None

    def __str__(self) -> str:
        return f"{self._space}/{self._name} is {self._state or 'not known'}"

    def problem(self) -> str | None:
        """Continue without blocking; return why the controller does not move the arm, as far as is known."""
        if self._type is None:
            return None
        if self._client is None:
            self._client = self._node.create_client(self._type, self._service)
        if self._future is not None and self._future.done():
            self._read(self._future.result().controller)
            self._future = None
        now_s = time.monotonic()
        if not self._client.service_is_ready():
            self._forget()
        elif self._future is None and now_s - self._asked_s >= ASK_PERIOD_S:
            self._future, self._asked_s = self._client.call_async(self._type.Request()), now_s
        elif self._future is not None and now_s - self._asked_s > ANSWER_S:
            self._forget()
        if self._state in (None, "active"):
            return None
        return f"{self}, and drops what it is sent: ros2 control switch_controllers --activate {self._name}"

    def _read(self, controllers: Iterable[Any]) -> None:
        found = {
            c.name: str(c.state)
            for c in controllers
            if (c.type.endswith(self._kind) if self._kind else c.name == self._name)
        }
        active = [name for name, state in found.items() if state == "active"]
        if found:
            self._name = next(iter(active or found))
        self._state = found.get(self._name)

    def close(self) -> None:
        """Ask no more."""
        self._forget()
        if self._client is not None:
            self._node.destroy_client(self._client)
        self._client = None

    def _forget(self) -> None:
        if self._future is not None and self._client is not None:
            self._client.remove_pending_request(self._future)
        self._future, self._state = None, None


def missing_subscriber(node: Node, publisher: Publisher, what: str) -> str | None:
    """Return a line that names the topic if no one subscribes to ``publisher``, else ``None``."""
    if publisher.get_subscription_count() > 0:
        return None
    topic = publisher.topic_name
    types = sorted({info.topic_type for info in node.get_subscriptions_info_by_topic(topic)})
    if types:
        return f"{topic} is subscribed as {', '.join(types)}, which does not match: check the driver's kind"
    return f"no {what} subscribes to {topic}: is the robot's driver running?"


def acknowledged(publisher: Publisher, timeout_s: float) -> bool:
    """Wait until every subscriber has received everything; return whether it has within ``timeout_s``.

    A missed message is resent only as long as its publisher exists. Best-effort subscriptions do not
    acknowledge and count as served, and so does having no subscriber or a middleware without
    acknowledgements.
    """
    try:
        return bool(publisher.wait_for_all_acked(Duration(seconds=timeout_s)))
    except rclpy_implementation.RCLError:
        return False
