"""Asks ros2_control about the controller behind a command topic: whether it is active, and how it is set up.

A joint trajectory controller's parameters decide where a new message starts and what lies between two
points. Nothing is changed there: what must not be is reported, with the parameter's name.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters
from rclpy.client import Client
from rclpy.node import Node
from rclpy.task import Future

from openvla_ros.drivers.readiness.optional_messages import interface
from openvla_ros.drivers.readiness.subscribers import Restarts
from openvla_ros.drivers.readiness.unusable import Unusable
from openvla_ros.errors import MissingDependencyError

LIST_CONTROLLERS = "controller_manager_msgs/srv/ListControllers"
# How often a controller manager is asked, and how long it may take to answer.
ASK_PERIOD_S, ANSWER_S = 2.0, 5.0

FROM_DESIRED = "interpolate_from_desired_state"  # since Jazzy
OPEN_LOOP = "open_loop_control"  # its name in Humble
METHOD = "interpolation_method"
ASKED = (FROM_DESIRED, OPEN_LOOP, METHOD)


class ControllerState:
    """Asks ros2_control's manager for the state of the controller that subscribes to a command topic.

    A controller subscribes from its configuration on and drops what comes while it is inactive
    (joint_trajectory_controller 2.50 to 6.9, ``on_configure``, ``subscriber_is_active_``): a subscriber alone
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
        self.problem: Unusable | None = None  # why the controller does not move the arm, as far as is known
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

    def progress(self) -> Unusable | None:
        """Continue without blocking; return ``problem``."""
        if self._type is not None:
            self._ask()
        self.problem = None
        if self._state not in (None, "active"):
            command = f"ros2 control switch_controllers --activate {self._name}"
            self.problem = Unusable(f"{self}, and drops what it is sent", command)
        return self.problem

    def _ask(self) -> None:
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


@dataclass(frozen=True)
class Settings:
    """What a controller answered."""

    controller: str
    from_desired: bool
    method: str | None  # None: a release that has no choice of it

    @property
    def problem(self) -> Unusable | None:
        """Return why the arm must not be moved through it, or ``None``."""
        if self.method != "none":
            return None
        what = f"{self.controller} has {METHOD} 'none', so that the arm would jump from point to point"
        return Unusable(what, "set it to 'splines'")

    def __str__(self) -> str:
        if self.from_desired:
            return (
                f"{self.controller} starts each message at its last command "
                f"({FROM_DESIRED} or {OPEN_LOOP} is true)"
            )
        return (
            f"{self.controller} starts each message at the measured joints ({FROM_DESIRED} or {OPEN_LOOP} is "
            "false); each of ours begins with a point that is already due, so the command does not fall back"
        )


class SettingsQuery:
    """Asks the controller that subscribes to a trajectory topic, once each time it appears.

    ros2_control's controllers subscribe to ``~/joint_trajectory``, so the topic names the node. Whoever
    else subscribes, a recorder or a driver that takes trajectories, is asked for nothing.
    """

    def __init__(self, node: Node, topic: str) -> None:
        self._node, self._topic = node, node.resolve_topic_name(topic)
        self._controller = self._topic.rsplit("/", 1)[0]
        self._controllers = Restarts()
        self._client: Client | None = None
        self._futures: dict[str, Future] = {}
        self.settings: Settings | None = None

    def progress(self) -> Settings | None:
        """Continue without blocking; return the settings once the controller has answered."""
        infos = self._node.get_subscriptions_info_by_topic(self._topic)
        own = [i for i in infos if f"{i.node_namespace.rstrip('/')}/{i.node_name}" == self._controller]
        if self._controllers.noticed(own) or not own:
            self.close()
        if own and self.settings is None:
            self._ask()
        return self.settings

    def close(self) -> None:
        """Ask no more, and forget what was answered."""
        if self._client is not None:
            self._node.destroy_client(self._client)
        self._client, self._futures, self.settings = None, {}, None

    def _ask(self) -> None:
        if self._client is None:
            self._client = self._node.create_client(GetParameters, f"{self._controller}/get_parameters")
        if not self._futures and self._client.service_is_ready():
            # One request a name: rclcpp answers nothing at all where one of several is not declared.
            self._futures = {
                name: self._client.call_async(GetParameters.Request(names=[name])) for name in ASKED
            }
        elif self._futures and all(future.done() for future in self._futures.values()):
            self.settings = self._read()

    def _read(self) -> Settings | None:
        """Return the answer; None where it has none of the parameters: it is another kind of node."""
        from_desired, method = None, None
        for name, future in self._futures.items():
            for value in future.result().values:
                if value.type == ParameterType.PARAMETER_BOOL:
                    from_desired = value.bool_value or bool(from_desired)
                elif value.type == ParameterType.PARAMETER_STRING and name == METHOD:
                    method = value.string_value
        return None if from_desired is None else Settings(self._controller, from_desired, method)
