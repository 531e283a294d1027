"""Detects other publishers that command the same arm, for the nodes that command it.

Two controllers, or another program that publishes to the arm's driver, would pull one arm two ways.
Neither can know which one is wanted, so ours stops and publishes nothing while another one is there. A
process that was killed and restarted does not see its predecessor (``endpoints.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from openvla_ros.discovery.endpoints import UNKNOWN, full_name, listed, publishers, rivals
from openvla_ros.drivers.factory import ARM_SETPOINTS, GRIPPER_SETPOINTS
from openvla_ros.profile import RobotProfile

PERIOD_S = 0.2
# Discovery takes about this long on one machine and in a quiet network; until then nothing is
# accepted.
LOOK_S = 1.0
VERDICT = "controller/verdict"


def command_topics(node: Node, profile: RobotProfile, controller: str = "") -> dict[str, str]:
    """Return the topics that command the arm and its gripper → the node that may publish on each.

    ``controller`` is that node's full name, by default the graph's. A second controller is recognised by
    its verdicts, whatever it commands.
    """
    setpoints = full_name(node.get_namespace(), "setpoints")
    controller = controller or full_name(node.get_namespace(), "controller")
    topics = {VERDICT: controller}
    for backend, trajectories in (
        (profile.arm_backend, ARM_SETPOINTS),
        (profile.gripper_backend, GRIPPER_SETPOINTS),
    ):
        topics[backend.topic] = setpoints if backend.takes_setpoints else controller
        if backend.takes_setpoints:
            topics[trajectories] = controller
    return topics


class RivalWatch:
    """Calls ``changed`` with a description of the rivals, or None once there are none."""

    def __init__(self, node: Node, topics: Mapping[str, str], changed: Callable[[str | None], None]) -> None:
        """``topics`` are those that must have one publisher → the full name of the node that may."""
        self._node, self._topics, self._changed = node, dict(topics), changed
        self._since_s = time.monotonic()
        self._told: str | None = ""  # not checked yet
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(PERIOD_S, self._look, clock=steady)

    @property
    def found(self) -> str | None:
        """A description of the current rivals."""
        return self._told or None

    def _look(self) -> None:
        own = self._node.get_fully_qualified_name()
        found: dict[str, None] = {}
        for topic, expected in self._topics.items():
            others = rivals(publishers(self._node, topic), expected, own == expected)
            if others:
                name = self._node.resolve_topic_name(topic)
                found[f"{listed(self._described(others, own))} also publishes {name}"] = None
        told = "; ".join(found) or None
        if told is None and time.monotonic() - self._since_s < LOOK_S:
            return
        if told != self._told:
            self._told = told
            self._changed(told)

    @staticmethod
    def _described(others: list[str], own: str) -> list[str]:
        """DDS announces an endpoint before its node's name: the arm stops at once, the name follows."""
        named = {own: f"another {own}"}
        return [
            "a node whose name is not yet known" if UNKNOWN in name else named.get(name, name)
            for name in others
        ]
