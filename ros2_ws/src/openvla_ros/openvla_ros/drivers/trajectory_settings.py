"""Reads how a ros2_control joint trajectory controller is set up, from the controller itself.

Its parameters decide where a new message starts and what lies between two points. Nothing is changed
there: what must not be is reported, with the parameter's name.
"""

from __future__ import annotations

from dataclasses import dataclass

from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters
from rclpy.client import Client
from rclpy.node import Node
from rclpy.task import Future

FROM_DESIRED = "interpolate_from_desired_state"  # since Jazzy
OPEN_LOOP = "open_loop_control"  # its name in Humble
METHOD = "interpolation_method"
ASKED = (FROM_DESIRED, OPEN_LOOP, METHOD)


@dataclass(frozen=True)
class Settings:
    """What a controller answered; None for a parameter that it does not have."""

    controller: str
    from_desired: bool | None
    method: str | None

    @property
    def problem(self) -> str | None:
        """Return why the arm must not be moved through it, or ``None``."""
        if self.method != "none":
            return None
        return (
            f"{self.controller} has {METHOD} 'none': the arm would jump from point to point; "
            f"set it to 'splines'"
        )

    def __str__(self) -> str:
        if self.from_desired is None:
            start = f"has no {FROM_DESIRED}: is it a joint trajectory controller?"
        elif self.from_desired:
            start = f"starts each message at its last command ({FROM_DESIRED} or {OPEN_LOOP} is true)"
        else:
            start = (
                f"starts each message at the measured joints ({FROM_DESIRED} or {OPEN_LOOP} is false); "
                "each of ours begins with a point that is already due, so the command does not fall back"
            )
        return f"{self.controller} {start}"


class SettingsQuery:
    """Asks whoever subscribes to a trajectory topic, once for each controller that appears there."""

    def __init__(self, node: Node, topic: str) -> None:
        self._node, self._topic = node, node.resolve_topic_name(topic)
        self._controller = ""
        self._client: Client | None = None
        self._futures: dict[str, Future] = {}
        self.settings: Settings | None = None

    def progress(self) -> Settings | None:
        """Continue without blocking; return the settings once the controller has answered.

        None for good where the subscriber offers no parameters, as a driver of one's own may not.
        """
        controller = self._subscriber()
        if controller != self._controller:
            self.close()
            self._controller = controller
        if self.settings is None and controller:
            self._ask(controller)
        return self.settings

    def close(self) -> None:
        """Forget the controller: the next one is asked again."""
        if self._client is not None:
            self._node.destroy_client(self._client)
        self._client, self._futures, self.settings, self._controller = None, {}, None, ""

    def _subscriber(self) -> str:
        """Return the full name of the first node that subscribes to the topic, or an empty string."""
        infos = self._node.get_subscriptions_info_by_topic(self._topic)
        names = sorted(f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in infos)
        return names[0] if names else ""

    def _ask(self, controller: str) -> None:
        if self._client is None:
            self._client = self._node.create_client(GetParameters, f"{controller}/get_parameters")
        if not self._futures and self._client.service_is_ready():
            # One request a name: rclcpp answers nothing at all where one of several is not declared.
            self._futures = {
                name: self._client.call_async(GetParameters.Request(names=[name])) for name in ASKED
            }
        elif self._futures and all(future.done() for future in self._futures.values()):
            self.settings = self._read(controller)

    def _read(self, controller: str) -> Settings:
        from_desired, method = None, None
        for name, future in self._futures.items():
            for value in future.result().values:
                if value.type == ParameterType.PARAMETER_BOOL:
                    from_desired = value.bool_value or bool(from_desired)
                elif value.type == ParameterType.PARAMETER_STRING and name == METHOD:
                    method = value.string_value
        return Settings(controller, from_desired, method)
