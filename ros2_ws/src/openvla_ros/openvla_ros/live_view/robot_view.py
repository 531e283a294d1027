"""Shows a running robot in a viewer until somebody ends it.

Looks and listens like ``openvla check``: no publisher, no service, no command. The process gives way to the
robot's own: it runs at a lower priority.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable

import rclpy
from rclpy.parameter import Parameter

from openvla_ros.data.bags.message_definition import message_definition
from openvla_ros.discovery.client import RobotClient
from openvla_ros.errors import DeviceError
from openvla_ros.live_view.newest_messages import NewestMessages
from openvla_ros.live_view.viewed_topics import viewed_topics
from openvla_ros.profile import RobotProfile
from openvla_ros.viewing.message_view import MessageView
from openvla_ros.viewing.robot_figure import RobotFigure
from openvla_ros.viewing.viewer import Viewer

PERIOD_S = 0.04  # how often the newest messages are taken
NICENESS = 5
SILENT_S = 10.0  # without any message for this long at first, it is said


def give_way() -> None:
    """Lower this thread's priority, and so that of every thread and process that it starts from now on."""
    os.setpriority(os.PRIO_PROCESS, 0, max(os.getpriority(os.PRIO_PROCESS, 0), NICENESS))


class RobotView:
    """The running robot of one namespace, as a viewer shows it."""

    def __init__(
        self,
        profile: RobotProfile,
        figure: RobotFigure | None,
        viewer: Viewer,
        namespace: str = "",
        use_sim_time: bool = False,
    ) -> None:
        self._profile, self._viewer, self._namespace = profile, viewer, namespace
        self._use_sim_time = use_sim_time
        self._topics = viewed_topics(profile)
        names = {f"{t.type.__module__.split('.')[0]}/msg/{t.type.__name__}" for t in self._topics}
        self._view = MessageView(profile, {name: message_definition(name) for name in names}, figure)
        self.shown: Counter[str] = Counter()  # messages, by role

    def run(self, stop: threading.Event, seconds: float | None, say: Callable[[str], None]) -> None:
        """Show until ``stop``, or for ``seconds``; ``say`` is told if nothing is heard.

        Raises ``DeviceError`` if nothing at all was heard within ``seconds``.
        """
        name = f"viewer_{os.getpid()}"
        with RobotClient(name, self._namespace, self._use_sim_time) as client:
            silent = rclpy.create_node(
                f"{name}_topics",
                namespace=self._namespace,
                context=client.node.context,
                parameter_overrides=[
                    Parameter(key, value=False) for key in ("use_sim_time", "start_type_description_service")
                ],
                start_parameter_services=False,
            )
            try:
                messages = NewestMessages(silent, self._topics)
                since_s, told = time.monotonic(), False
                while not stop.is_set() and (seconds is None or time.monotonic() - since_s < seconds):
                    client.listen(PERIOD_S)
                    self._show(messages, client)
                    if not told and time.monotonic() - since_s > SILENT_S and not self.shown:
                        told = True
                        say(f"nothing heard of {self._profile.name} yet: {self._where()}")
            finally:
                silent.destroy_node()
        if not self.shown and seconds is not None:
            raise DeviceError(f"nothing heard of {self._profile.name} within {seconds:g} s: {self._where()}")

    def _show(self, messages: NewestMessages, client: RobotClient) -> None:
        for message in messages.take():
            self.shown[message.role] += 1
            received_ns = message.received_ns
            if self._use_sim_time or not received_ns:
                received_ns = client.now_ns
            for thing in self._view.show(message.role, message.type_name, message.data, received_ns):
                self._viewer.show(thing)

    def _where(self) -> str:
        domain = os.environ.get("ROS_DOMAIN_ID", "0")
        return (
            f"is the robot up, in ROS domain {domain} and namespace {self._namespace or '/'}? openvla check "
            f"{self._profile.name} says what is missing"
        )
