"""The watch over what the robot reports: its newest joint state and wrench, and the fault that they show."""

from __future__ import annotations

from numpy.typing import ArrayLike

from openvla_ros.profile import RobotProfile
from openvla_ros.robot.safety.robot_state import RobotState, StateChecks, Wrench, parse_state, parse_wrench
from openvla_ros.values.arrays import Float
from openvla_ros.values.verdict import OK, Reason, SafetyVerdict


class RobotWatch:
    """Keeps the robot's newest reports and holds them against the limits of the profile."""

    def __init__(self, profile: RobotProfile) -> None:
        self._profile = profile
        self._checks = StateChecks(profile)
        self._wrench: Wrench | None = None
        self.robot: RobotState | None = None  # None until a joint state was received
        self.fault: SafetyVerdict | None = None  # what ``look`` found last, until it is over

    def observe(
        self,
        joint_positions: ArrayLike,
        velocities: ArrayLike | None,
        effort: ArrayLike | None,
        stamp_ns: int,
        now_ns: int,
    ) -> SafetyVerdict:
        """Take in a joint state in the profile's joint order; returns why it is not used, or OK."""
        state = parse_state(self._profile, joint_positions, velocities, effort, stamp_ns, now_ns)
        if isinstance(state, SafetyVerdict):
            return state
        if self.robot is not None and stamp_ns < self.robot.stamp_ns:
            return SafetyVerdict.hold(Reason.OUT_OF_ORDER, "the joint state is older than the previous one")
        self.robot = state
        return OK

    def observe_wrench(
        self, force: ArrayLike, torque: ArrayLike, stamp_ns: int, now_ns: int
    ) -> SafetyVerdict:
        """Take in the external force (3,) N and torque (3,) N m; returns why they are not used, or OK."""
        wrench = parse_wrench(force, torque, stamp_ns, now_ns)
        if isinstance(wrench, SafetyVerdict):
            return wrench
        self._wrench = wrench
        return OK

    def check(self, now_ns: int) -> SafetyVerdict:
        """Return OK, or the hold that says why an arm that reports this is not moved from rest."""
        return self._checks.check(self.robot, None, self._wrench, now_ns)

    def check_limits(self) -> SafetyVerdict:
        """Return OK, or the hold that names the joint found too far outside its limits to start from."""
        return self._checks.check_limits(self.robot)

    def look(self, commanded: Float | None, now_ns: int) -> SafetyVerdict | None:
        """Return the fault that the reports show for joints ``commanded`` (J,) rad, or None; also kept.

        ``commanded`` is None where nothing is commanded.
        """
        verdict = self._checks.check(self.robot, commanded, self._wrench, now_ns)
        self.fault = None if verdict.commands else verdict
        return self.fault

    def forget_time(self) -> None:
        """Forget the reports: the clock went back."""
        self.robot = self._wrench = None
