"""Looks for whoever else commands the same arm, for the nodes that command it.

Two controllers, or a program that publishes to the arm's driver beside ours, would pull one arm two ways.
Neither can tell which of them a person wants, so both of ours stop and stay silent while the other is
there. A process that was killed and started again does not see its predecessor (``endpoints.py``).
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
# Who is there is heard within about this time on one machine and in a quiet network; until then nothing
# is taken up.
LOOK_S = 1.0
VERDICT = "controller/verdict"


def command_topics(node: Node, profile: RobotProfile, controller: str = "") -> dict[str, str]:
    """Return the topics on which the arm and its gripper are commanded → the node that may.

    ``controller`` is that node's full name, by default the graph's. A second controller is known by its
    verdicts, whatever it commands.
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
    """Calls ``changed`` with who else is there, in words, or None once nobody is; looks for ever."""

    def __init__(self, node: Node, topics: Mapping[str, str], changed: Callable[[str | None], None]) -> None:
        """``topics`` are those that must have one publisher → the full name of the node that may."""
        self._node, self._topics, self._changed = node, dict(topics), changed
        self._since_s = time.monotonic()
        self._told: str | None = ""  # neither somebody nor nobody: not looked yet
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(PERIOD_S, self._look, clock=steady)

    @property
    def found(self) -> str | None:
        """Who else is there, in words."""
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
        """DDS tells of an endpoint before it tells of its node: the arm stops at once, the name follows."""
        named = {own: f"another {own}"}
        return [
            "a node whose name is not known yet" if UNKNOWN in name else named.get(name, name)
            for name in others
        ]
