"""What the robot reports of itself, and what that must be for it to be moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from openvla_ros.arrays import Float, read_only
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.safety import CLOCK_TOLERANCE_S
from openvla_ros.verdict import OK, Reason, SafetyVerdict

# An arm found this far outside its joint limits is not moved by chunks.
JOINT_TOLERANCE_RAD = 0.1


@dataclass(frozen=True, eq=False)
class RobotState:
    """What the robot last reported of itself; joints in the profile's order."""

    stamp_ns: int
    positions: Float  # (J,) rad
    velocities: Float | None = None
    effort: Float | None = None


def parse_state(
    profile: RobotProfile,
    positions: ArrayLike,
    velocities: ArrayLike | None,
    effort: ArrayLike | None,
    stamp_ns: int,
    now_ns: int,
) -> RobotState | SafetyVerdict:
    """Return a joint state whose numbers are all there and finite, or the hold that says what is wrong."""
    count = len(profile.arm.joints)
    arrays: list[Float | None] = []
    for name, value in (("positions", positions), ("velocities", velocities), ("effort", effort)):
        array = None if value is None else np.array(value, dtype=np.float64)
        if array is not None and (array.shape != (count,) or not np.isfinite(array).all()):
            return SafetyVerdict.hold(
                Reason.STATE_INVALID, f"joint {name} are {array}; they must be {count} finite numbers"
            )
        arrays.append(None if array is None else read_only(array))
    ahead_s = (stamp_ns - now_ns) * 1e-9
    if ahead_s > CLOCK_TOLERANCE_S:
        return SafetyVerdict.hold(
            Reason.FUTURE, f"the joint state is stamped {ahead_s:.3f} s ahead of the controller's clock"
        )
    if arrays[0] is None:
        return SafetyVerdict.hold(Reason.STATE_INVALID, "the joint state has no positions")
    return RobotState(stamp_ns, arrays[0], arrays[1], arrays[2])


class StateChecks:
    """What the robot's reports must be for it to be moved."""

    def __init__(self, profile: RobotProfile) -> None:
        self._joints = profile.arm.joints
        self._max_age_s = profile.state.max_age_s
        limits = profile.limits
        self._lower, self._upper = np.array(limits.joint_lower), np.array(limits.joint_upper)
        self._tracking_rad = limits.tracking_error_rad
        self._effort = None if limits.effort is None else np.array(limits.effort)
        self._force_n, self._torque_nm = limits.wrench_n, limits.wrench_nm

    def check(
        self,
        state: RobotState | None,
        commanded: Float | None,
        wrench: tuple[Float, Float] | None,
        now_ns: int,
    ) -> SafetyVerdict:
        """Return OK, or the hold that names the first report beyond its limit."""
        if state is None:
            return SafetyVerdict.hold(Reason.NO_STATE, "no joint state has been received")
        age_s = (now_ns - state.stamp_ns) * 1e-9
        if age_s > self._max_age_s:
            return SafetyVerdict.hold(
                Reason.STATE_STALE, f"the joint state is {age_s:.3f} s old; the limit is {self._max_age_s} s"
            )
        return self._tracking(state, commanded) or self._forces(state, wrench) or OK

    def check_limits(self, state: RobotState | None) -> SafetyVerdict:
        """Return OK, or the hold that names the joint found too far outside its limits to start from."""
        if state is None:
            return OK
        outside = np.maximum(self._lower - state.positions, state.positions - self._upper)
        i = int(np.argmax(outside))
        if outside[i] <= JOINT_TOLERANCE_RAD:
            return OK
        return SafetyVerdict.hold(
            Reason.JOINT_LIMIT,
            f"{self._joints[i]} is at {state.positions[i]:.3f} rad; its limits are "
            f"{self._lower[i]:g} .. {self._upper[i]:g} rad: bring it back by hand or to a named pose",
        )

    def _tracking(self, state: RobotState, commanded: Float | None) -> SafetyVerdict | None:
        if commanded is None:
            return None
        error = np.abs(commanded - state.positions)
        i = int(np.argmax(error))
        if error[i] <= self._tracking_rad:
            return None
        return SafetyVerdict.hold(
            Reason.TRACKING,
            f"{self._joints[i]} is {error[i]:.3f} rad off its command; the limit is {self._tracking_rad} rad",
        )

    def _forces(self, state: RobotState, wrench: tuple[Float, Float] | None) -> SafetyVerdict | None:
        if self._effort is not None and state.effort is not None:
            share = np.abs(state.effort) / self._effort
            i = int(np.argmax(share))
            if share[i] > 1.0:
                return SafetyVerdict.hold(
                    Reason.EFFORT,
                    f"{self._joints[i]} reports {state.effort[i]:.1f}; the limit is {self._effort[i]:g}",
                )
        if wrench is not None:
            force, torque = float(np.linalg.norm(wrench[0])), float(np.linalg.norm(wrench[1]))
            if self._force_n is not None and force > self._force_n:
                return SafetyVerdict.hold(
                    Reason.WRENCH, f"the external force is {force:.1f} N; the limit is {self._force_n:g} N"
                )
            if self._torque_nm is not None and torque > self._torque_nm:
                return SafetyVerdict.hold(
                    Reason.WRENCH,
                    f"the external torque is {torque:.1f} N m; the limit is {self._torque_nm:g} N m",
                )
        return None
