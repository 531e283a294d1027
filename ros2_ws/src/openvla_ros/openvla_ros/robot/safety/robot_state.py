"""The reported robot state (joints, effort, wrench) and the checks it must pass before the arm may move."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from openvla_ros.profile import ControlProfile, RobotProfile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.inverse_kinematics import rotation_error
from openvla_ros.robot.safety import CLOCK_TOLERANCE_S
from openvla_ros.values.arrays import Float, read_only
from openvla_ros.values.time import seconds
from openvla_ros.values.verdict import OK, Reason, SafetyVerdict

# Chunks do not move an arm that is this far outside its joint limits.
JOINT_TOLERANCE_RAD = 0.1


@dataclass(frozen=True, eq=False)
class RobotState:
    """The robot's last reported state; joints in the profile's order."""

    stamp_ns: int
    positions: Float  # (J,) rad
    velocities: Float | None = None
    effort: Float | None = None


@dataclass(frozen=True, eq=False)
class Wrench:
    """The last reported external wrench."""

    stamp_ns: int
    force: Float  # (3,) N
    torque: Float  # (3,) N m


def parse_wrench(force: ArrayLike, torque: ArrayLike, stamp_ns: int, now_ns: int) -> Wrench | SafetyVerdict:
    """Return the external wrench if it is finite, else a hold that says what is wrong."""
    f, t = np.array(force, dtype=np.float64), np.array(torque, dtype=np.float64)
    if any(part.shape != (3,) or not np.isfinite(part).all() for part in (f, t)):
        return SafetyVerdict.hold(
            Reason.STATE_INVALID, f"the external wrench is {f} N, {t} N m; it must be 3 and 3 finite numbers"
        )
    return _ahead("external wrench", stamp_ns, now_ns) or Wrench(stamp_ns, read_only(f), read_only(t))


def parse_state(
    profile: RobotProfile,
    positions: ArrayLike,
    velocities: ArrayLike | None,
    effort: ArrayLike | None,
    stamp_ns: int,
    now_ns: int,
) -> RobotState | SafetyVerdict:
    """Return the joint state if it is complete and finite, else a hold that says what is wrong.

    If all velocities are NaN they count as not reported: ros2_control's joint state broadcaster sends that
    for hardware that measures only positions.
    """
    count = len(profile.arm.joints)
    if velocities is not None and np.isnan(np.asarray(velocities, dtype=np.float64)).all():
        velocities = None
    arrays: list[Float | None] = []
    for name, value in (("positions", positions), ("velocities", velocities), ("effort", effort)):
        array = None if value is None else np.array(value, dtype=np.float64)
        if array is not None and (array.shape != (count,) or not np.isfinite(array).all()):
            return SafetyVerdict.hold(
                Reason.STATE_INVALID, f"joint {name} are {array}; they must be {count} finite numbers"
            )
        arrays.append(None if array is None else read_only(array))
    if arrays[0] is None:
        return SafetyVerdict.hold(Reason.STATE_INVALID, "the joint state has no positions")
    return _ahead("joint state", stamp_ns, now_ns) or RobotState(stamp_ns, arrays[0], arrays[1], arrays[2])


def _ahead(what: str, stamp_ns: int, now_ns: int) -> SafetyVerdict | None:
    ahead_s = seconds(stamp_ns - now_ns)
    if ahead_s <= CLOCK_TOLERANCE_S:
        return None
    return SafetyVerdict.hold(
        Reason.FUTURE, f"the {what} is stamped {ahead_s:.3f} s ahead of the controller's clock"
    )


class StateChecks:
    """Checks the reported state before the arm may move."""

    def __init__(self, profile: RobotProfile) -> None:
        self._joints = profile.arm.joints
        self._max_age_s = profile.state.max_age_s
        self._wants_wrench = profile.state.wrench_topic is not None
        limits = profile.limits
        self._lower, self._upper = np.array(limits.joint_lower), np.array(limits.joint_upper)
        self._tracking_rad = limits.tracking_error_rad
        self._effort = None if limits.effort is None else np.array(limits.effort)
        self._force_n, self._torque_nm = limits.wrench_n, limits.wrench_nm

    def check(
        self,
        state: RobotState | None,
        commanded: Float | None,
        wrench: Wrench | None,
        now_ns: int,
    ) -> SafetyVerdict:
        """Return OK, or a hold that names the first report beyond its limit."""
        if state is None:
            return SafetyVerdict.hold(Reason.NO_STATE, "no joint state has been received")
        age_s = seconds(now_ns - state.stamp_ns)
        if age_s > self._max_age_s:
            return SafetyVerdict.hold(
                Reason.STATE_STALE, f"the joint state is {age_s:.3f} s old; the limit is {self._max_age_s} s"
            )
        return (
            self._tracking(state, commanded)
            or self._efforts(state)
            or self._wrench_there(wrench, now_ns)
            or self._wrench(wrench)
            or OK
        )

    def check_limits(self, state: RobotState | None) -> SafetyVerdict:
        """Return OK, or a hold that names the joint that is too far outside its limits to start from."""
        if state is None:
            return OK
        outside = np.maximum(self._lower - state.positions, state.positions - self._upper)
        i = int(np.argmax(outside))
        if outside[i] <= JOINT_TOLERANCE_RAD:
            return OK
        return SafetyVerdict.hold(
            Reason.JOINT_LIMIT,
            f"{self._joints[i]} is at {state.positions[i]:.3f} rad; its limits are "
            f"{self._lower[i]:g} .. {self._upper[i]:g} rad: move it back by hand or to a named pose",
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

    def _efforts(self, state: RobotState) -> SafetyVerdict | None:
        if self._effort is None:
            return None
        if state.effort is None:
            return SafetyVerdict.hold(
                Reason.NO_STATE,
                "the joint states report no efforts, and the profile limits them (limits.effort)",
            )
        share = np.abs(state.effort) / self._effort
        i = int(np.argmax(share))
        if share[i] <= 1.0:
            return None
        return SafetyVerdict.hold(
            Reason.EFFORT,
            f"{self._joints[i]} reports {state.effort[i]:.1f}; the limit is {self._effort[i]:g}",
        )

    def _wrench_there(self, wrench: Wrench | None, now_ns: int) -> SafetyVerdict | None:
        """A robot whose profile has a wrench must report it: otherwise its limit would have no effect."""
        if not self._wants_wrench:
            return None
        if wrench is None:
            return SafetyVerdict.hold(Reason.NO_STATE, "no external wrench has been received")
        age_s = seconds(now_ns - wrench.stamp_ns)
        if age_s <= self._max_age_s:
            return None
        return SafetyVerdict.hold(
            Reason.STATE_STALE, f"the external wrench is {age_s:.3f} s old; the limit is {self._max_age_s} s"
        )

    def _wrench(self, wrench: Wrench | None) -> SafetyVerdict | None:
        if wrench is None:
            return None
        force, torque = float(np.linalg.norm(wrench.force)), float(np.linalg.norm(wrench.torque))
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


class ToolDrift:
    """How far the measured tool may be off the commanded one before steps start from the measured tool."""

    def __init__(self, control: ControlProfile, chain: KinematicChain) -> None:
        self._most_m, self._most_rad = control.reanchor_error_m, control.reanchor_error_rad
        self._chain = chain

    def check(self, commanded: Float, measured: Float) -> SafetyVerdict | None:
        """Return why the next step must start from the ``measured`` joints (J,) rad, or None."""
        there, here = self._chain.frames(np.stack([commanded, measured]))[:, -1]
        off_m = float(np.linalg.norm(there[:3, 3] - here[:3, 3]))
        off_rad = float(np.linalg.norm(rotation_error(there[:3, :3], here[:3, :3])))
        if off_m <= self._most_m and off_rad <= self._most_rad:
            return None
        return SafetyVerdict.command(
            Reason.TRACKING,
            f"steps start at the measured tool, {off_m:.3f} m and {off_rad:.3f} rad off the commanded one",
        )
