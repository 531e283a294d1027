"""The observations that ``fuzz_nodes`` judges by: arm motion, commands, and what the nodes report."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from numpy.typing import NDArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.profile import RobotProfile

# Two sources for the simulated joints: the simulation itself, and what a robot reports.
COORDINATES, STATES = "simulation/coordinates", "joint_states"


class Watch:
    """Watches the arm: its joints as the simulation reports them, and the commands sent to it."""

    def __init__(self, node: Any, profile: RobotProfile) -> None:
        self._joints = profile.arm.joints
        self._witness, self._judges_commands = COORDINATES, True
        self.moved = {"joints": 0.0, "commands": 0.0}
        self.seen = {"joints": 0, "commands": 0}
        self._first: dict[str, NDArray[np.float64]] = {}
        self.still: tuple[float, ...] = ()
        self.refused: dict[str, int] = {}
        self.failed: dict[str, dict[str, int]] = {}  # refusals as callback_failed: bugs of ours
        self.diagnosed_s: dict[str, float] = {}
        newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        every = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
        for topic in (COORDINATES, STATES):
            node.create_subscription(JointState, topic, partial(self._arm, topic), newest)
        node.create_subscription(JointTrajectory, "arm_controller/joint_trajectory", self._command, every)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnosed, every)

    def begin(self, witness: str, commands: bool) -> None:
        """Start over, watching the joints on the topic ``witness``; with ``commands``, also the commands.

        Only topics that nobody else publishes are meaningful.
        """
        self._first.clear()
        self.seen = {"joints": 0, "commands": 0}
        self.moved = {"joints": 0.0, "commands": 0.0}
        self._witness, self._judges_commands = witness, commands

    def _arm(self, topic: str, message: JointState) -> None:
        count = len(self._joints)
        if len(message.position) < count:
            return
        if not self.still and topic == STATES:
            self.still = tuple(message.position[:count])
        if topic == self._witness:
            self._note("joints", np.array(message.position[:count]))

    def _command(self, message: JointTrajectory) -> None:
        if not self._judges_commands:
            return
        for point in message.points:
            self._note("commands", np.array(point.positions))

    def _note(self, what: str, position: NDArray[np.float64]) -> None:
        self.seen[what] += 1
        first = self._first.setdefault(what, position)
        if position.shape == first.shape:
            self.moved[what] = max(self.moved[what], float(np.abs(position - first).max(initial=0.0)))

    def _diagnosed(self, message: DiagnosticArray) -> None:
        for status in message.status:
            owner, _, what = status.name.partition(": ")
            if what == "refused messages":
                counts = {item.key: int(item.value) for item in status.values}
                self.refused[owner] = sum(counts.values())
                self.failed[owner] = {k: n for k, n in counts.items() if k.endswith("callback_failed")}
            self.diagnosed_s[owner] = time.monotonic()
