"""Stops the arm, on a separate thread: the services hold and e_stop, and the button's topic.

An executor runs callbacks one after another, so a stop in the controller's own executor would wait
behind every chunk, joint state and parameter request received before it. Here a second node with two
services and one topic is spun by a second thread. All names are the controller's; only the node's name
differs (``controller_stops``, or ``<name>_stops`` if the controller was renamed).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial

from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from openvla_ros.nodes.control.core_lock import CoreLock
from openvla_ros.nodes.control.realtime import STOP_PRIORITY, ask_for_realtime
from openvla_ros.nodes.control.stop_button import StopButton
from openvla_ros.nodes.control.stop_memory import StopMemory
from openvla_ros.robot.controller import ArmController
from openvla_ros.ros import qos
from openvla_ros.ros.guard import GuardedExecutor, GuardedNode
from openvla_ros.ros.verdict_messages import trigger_service
from openvla_ros.values.verdict import Reason, SafetyVerdict

BUTTON_TOPIC = "e_stop"
LATCHED_PERIOD_S = 0.5  # a latched button that appears is listened to within this time
WAKE_S = 0.1
JOIN_S = 2.0

Refused = Callable[[SafetyVerdict], None]

# A publisher that the middleware does not name: rclpy up to Jazzy names none.
UNKNOWN = b""
# The button's publisher as the controller knew it that was here before this one.
GONE = b"gone"
# Who stopped the arm, in words.
SERVICE, BUTTON = "the service e_stop", f"the topic {BUTTON_TOPIC}"


class StopServices:
    """Serves hold and e_stop for ``core`` from ``start`` until ``close``.

    An exception ends the thread and is kept in ``failure``: a controller that cannot be stopped must not
    continue.
    """

    def __init__(
        self,
        controller: GuardedNode,
        core: ArmController,
        lock: CoreLock,
        refused: Refused,
        memory: StopMemory,
        stopped: Callable[[], None],
    ) -> None:
        """``stopped`` is called after each stop, on the stop thread."""
        self._core, self._lock, self._refused, self._memory = core, lock, refused, memory
        self._stopped = stopped
        self.button = StopButton()
        self.failure: BaseException | None = None
        self.scheduling = "not started"
        self._latched_button = False  # whether a latched publisher of the topic is listened to
        self._stopping = threading.Event()
        self._node = _plain_node(controller)
        self._executor = GuardedExecutor(context=controller.context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._run, name="stops", daemon=False)
        self._node.create_subscription(Bool, BUTTON_TOPIC, self._heard, qos.COMMAND)
        self._node.create_timer(LATCHED_PERIOD_S, self._hear_latched_button)
        self._resume_stop()
        for name, act, granted, stopped_by in (
            ("hold", core.hold, Reason.HELD, ""),
            ("e_stop", lambda: core.e_stop(SERVICE), Reason.E_STOP, SERVICE),
        ):
            asked = partial(self._stop, act, stopped_by)
            self._node.create_service(
                Trigger, f"controller/{name}", trigger_service(asked, granted, self._refused)
            )

    def start(self) -> None:
        """Start listening."""
        self._thread.start()

    def close(self) -> bool:
        """Stop the thread, then destroy the node; return whether the thread ended in time. Call once."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._executor.wake()
            self._thread.join(JOIN_S)
        ended = not self._thread.is_alive()
        self._memory.forget()  # who stops the controller in the ordinary way knows of the stop
        if ended:
            self._executor.shutdown()
            self._node.destroy_node()
        return ended

    def reset(self) -> SafetyVerdict:
        """Clear the emergency stop, with the lock held; refused while a button says true."""
        if self.button.pressed:
            return SafetyVerdict.hold(
                Reason.E_STOP, "the topic e_stop still says true: release the button (publish false) first"
            )
        verdict = self._core.reset_e_stop()
        self._memory.forget()
        return verdict

    def _remember(self, stopped_by: str) -> None:
        """Keep the stop for the process that takes this one's place; the arm has stopped already."""
        try:
            self._memory.remember(stopped_by)
        except OSError as error:
            self._node.get_logger().error(f"a restarted controller will not know of this stop: {error}")

    def _resume_stop(self) -> None:
        """Start stopped if the process that this one replaces was stopped when it was killed."""
        source = self._memory.remembered()
        if source is None:
            return
        if source == BUTTON:
            self.button.press(GONE)  # until a publisher of the topic says false
        self._core.e_stop(f"{source}, before the controller was restarted")

    def _run(self) -> None:
        self.scheduling = ask_for_realtime(STOP_PRIORITY)
        try:
            while not self._stopping.is_set():
                self._executor.spin_once(timeout_sec=WAKE_S)
        except Exception as error:  # noqa: BLE001 - handed on: the controller ends with it
            self.failure = error

    def _stop(self, act: Callable[[], SafetyVerdict], stopped_by: str) -> SafetyVerdict:
        """Stop the arm; an emergency stop is kept for a process that takes this one's place."""
        verdict = self._lock.stop(act)
        self._stopped()
        if stopped_by:
            self._remember(stopped_by)
        return verdict

    def _heard(self, message: Bool, info: Mapping[str, object]) -> None:
        """Stop as soon as any publisher first sends true; a repeated true changes nothing."""
        publisher = _publisher(info)
        if not message.data:
            alive = self._publishers()
            if publisher != UNKNOWN or len(alive) < 2:  # else it may be another button's release
                self.button.release(publisher, alive)
        elif self.button.press(publisher):
            self._stop(lambda: self._core.e_stop(BUTTON), BUTTON)

    def _publishers(self) -> set[bytes]:
        """Return the identities of the topic's current publishers."""
        infos = self._node.get_publishers_info_by_topic(BUTTON_TOPIC)
        return {bytes(info.endpoint_gid) for info in infos}

    def _hear_latched_button(self) -> None:
        """Also subscribe to a latched button's last message, once there is such a button.

        A latched subscription alone would not receive from a button that is not latched.
        """
        buttons = [] if self._latched_button else self._node.get_publishers_info_by_topic(BUTTON_TOPIC)
        if any(b.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for b in buttons):
            self._latched_button = True
            self._node.create_subscription(Bool, BUTTON_TOPIC, self._heard, qos.LATCHED)


def _plain_node(controller: GuardedNode) -> GuardedNode:
    """Return a minimal node in addition to ``controller``: no parameters, no clock.

    A ``__node:=`` in the process's arguments is meant for the controller.
    """
    name = f"{controller.get_name()}_stops"
    return GuardedNode(
        name,
        guard=controller.guard,
        context=controller.context,
        cli_args=["--ros-args", "-r", f"__node:={name}"],
        start_parameter_services=False,
        enable_rosout=False,
        parameter_overrides=[
            Parameter("use_sim_time", value=False),
            Parameter("start_type_description_service", value=False),
        ],
    )


def _publisher(info: Mapping[str, object]) -> bytes:
    """Return a message's publisher; the same for all if the middleware does not report it (up to Jazzy)."""
    gid = info.get("publisher_gid")
    return bytes(gid["data"]) if isinstance(gid, dict) else UNKNOWN
