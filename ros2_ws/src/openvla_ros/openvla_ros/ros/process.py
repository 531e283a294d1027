"""One process, one node: start, spin on a single thread, and stop in order with exit code 0.

Signals set a flag instead of shutting the context down, so that on stop the node can end its work first
and still send the safe command last. A second signal while stopping is ignored: launch forwards Ctrl-C in
addition to the terminal's own.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

import rclpy
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.node import Node

from openvla_ros.bringup.dds import keep_image_memory
from openvla_ros.bringup.stop_signals import STOP_SIGNALS, let_through
from openvla_ros.dependencies import needed_for
from openvla_ros.errors import OpenVLARosError
from openvla_ros.ros.dds_check import warn_about_transport
from openvla_ros.ros.guard import GuardedExecutor
from openvla_ros.ros.start import making_nodes, start_ros

# Maximum delay of a signal while no message and no timer wakes the executor.
WAKE_S = 0.1


class _StopRequested(BaseException):
    """A signal came while a node was being configured: loading a model may take minutes."""


def run(make_node: Callable[[], Node], args: Sequence[str] | None = None) -> int:
    """Run one node until SIGINT or SIGTERM; return the process's exit code.

    A lifecycle node whose parameter ``autostart`` is true is configured and activated first.
    An ``OpenVLARosError`` at start is one line in the log and exit code 1: nothing has moved yet. Later
    only a ``FatalNodeError`` ends the process; everything else is refused and counted (``ros.guard``).
    """
    stopping = starting = False

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping, starting
        stopping = True
        if starting:
            starting = False  # only once: shutting down must not be interrupted again
            raise _StopRequested

    for number in STOP_SIGNALS:
        signal.signal(number, on_signal)
    let_through()
    keep_image_memory()
    node: Node | None = None
    executor: GuardedExecutor | None = None
    try:
        start_ros(args=args)
        executor = GuardedExecutor()
        with needed_for("this node"), making_nodes():
            node = make_node()
        executor.add_node(node)
        warn_about_transport(node)
        starting = not stopping
        if starting:
            _autostart(node)
        starting = False
        while not stopping and rclpy.ok():
            executor.spin_once(timeout_sec=WAKE_S)
        return 0
    except _StopRequested:
        return 0
    except OpenVLARosError as error:
        (node.get_logger() if node else get_logger("openvla_ros")).fatal(str(error))
        return 1
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        _stop(node, executor)


def main(make_node: Callable[[], Node]) -> None:
    """Run one node as a program."""
    sys.exit(run(make_node))


def _autostart(node: Node) -> None:
    if not isinstance(node, LifecycleNode):
        return
    if not node.has_parameter("autostart") or not node.get_parameter("autostart").value:
        return
    for transition in (node.trigger_configure, node.trigger_activate):
        if transition() != TransitionCallbackReturn.SUCCESS:
            name = transition.__name__.removeprefix("trigger_")
            why = getattr(node, "problem", "") or "see the log"
            raise OpenVLARosError(f"{node.get_name()} could not {name}: {why}")


def _stop(node: Node | None, executor: GuardedExecutor | None) -> None:
    try:
        if node is not None:
            stop: Callable[[], None] | None = getattr(node, "stop", None)
            if stop is not None:
                stop()
    finally:
        if executor is not None:
            executor.shutdown()
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
