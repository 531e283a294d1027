"""Going to a named pose: the arm comes to rest, the way is planned from there, and its lines are followed."""

from __future__ import annotations

from openvla_ros.robot.modes.progress import Progress
from openvla_ros.robot.modes.way_planner import JointLine, NamedPose, WayPlanner
from openvla_ros.robot.motion.motion_limiter import JointMotion
from openvla_ros.values.verdict import Reason, SafetyVerdict


class Homing:
    """Brings the arm to one named pose after another, as ``begin`` names them."""

    def __init__(self, planner: WayPlanner) -> None:
        self._planner = planner
        self._name: NamedPose | None = None
        self._lines: list[JointLine] = []  # what is left of the way; empty until the arm rests

    def begin(self, name: NamedPose) -> None:
        """Make ``name`` the pose to go to; the way is planned once the arm rests."""
        self._name, self._lines = name, []

    def forget_way(self) -> None:
        """Plan the way again once the arm is at rest: it has left the line."""
        self._lines = []

    def advance(self, motion: JointMotion | None, elapsed_s: float) -> Progress:
        """Advance by one period of ``elapsed_s`` from the commanded ``motion``."""
        assert self._name is not None
        assert motion is not None
        if not self._lines:
            if not motion.is_at_rest:
                return Progress(None)
            planned = self._planner.plan(motion.position, self._name)
            if isinstance(planned, SafetyVerdict):
                return Progress(motion, planned, "interrupted")
            self._lines = planned
        following = self._lines[0].advance(elapsed_s)
        if self._lines[0].done and following.is_at_rest:
            self._lines.pop(0)
            if not self._lines:
                return Progress(following, SafetyVerdict.hold(Reason.WAITING, f"at {self._name}"), "done")
        return Progress(following)
