"""The safety chain: every check between a received chunk and a commanded joint, with one verdict type.

In this order: what the chunk is (width, finiteness, space, timing, age, bounds), where its targets
lead (workspace, tilt), what the joints would do (limits, self-collision, table), and what the robot
reports of itself (age, tracking, effort, wrench). Knows nothing of messages, clocks or motion: it
is given values and answers with a verdict.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openvla_ros.action import ActionChunk
from openvla_ros.arrays import Float, read_only
from openvla_ros.errors import ProfileError
from openvla_ros.geometry import Pose, transform_euler_to_matrix, transform_rotvec_to_matrix
from openvla_ros.profile import ArmProfile, RobotProfile
from openvla_ros.robot.composition import orthonormal
from openvla_ros.robot.kinematics import KinematicChain
from openvla_ros.robot.selfcollision import SelfCollision, TableClearance
from openvla_ros.verdict import Reason, SafetyVerdict

# Clocks of two machines may differ by this much before a stamp counts as coming from the future.
CLOCK_TOLERANCE_S = 0.05
# Values beyond their bounds by up to this share of the bounds' width are limited, not refused: recorded
# actions of BridgeData V2 pass theirs by a few percent. Anything larger is no action of this space.
BOUNDS_SLACK = 0.1
# A chunk's step may differ from the action space's by this share.
STEP_TOLERANCE = 0.02
# Kept in hand because a stop is checked at a few samples, not all along.
SAMPLING_RESERVE_M = 0.002
# The joints may bring a link this much nearer to the table than its clearance, as they follow targets.
TABLE_TOLERANCE_M = 0.002
# The joints may tilt the tool by this much more than its targets while they follow them.
TILT_TOLERANCE_RAD = 0.1
# An arm found this far outside its joint limits is not moved by chunks.
JOINT_TOLERANCE_RAD = 0.1
OK = SafetyVerdict.command()


@dataclass(frozen=True, eq=False)
class ReceivedChunk:
    """A chunk as it came in, before any check; what a message holds."""

    names: tuple[str, ...]
    frame_id: str
    stamp_ns: int  # of the observation
    step_s: float
    values: NDArray[np.float64]  # (T, D) if the sender did it right

    @classmethod
    def from_chunk(cls, chunk: ActionChunk, profile: RobotProfile) -> ReceivedChunk:
        """Return a policy's chunk as it arrives at ``profile``'s controller."""
        link = profile.arm.base_link if chunk.space.frame == "base" else profile.arm.tool_link
        return cls(
            chunk.space.names,
            profile.arm.frame_prefix + link,
            chunk.observation_stamp_ns,
            chunk.space.step_s,
            chunk.actions,
        )


class ChunkChecks:
    """What a chunk must be before anything is done with it."""

    def __init__(self, profile: RobotProfile) -> None:
        self._space = profile.space()
        self._frame_id = profile.action_frame_id()
        self._max_age_s = profile.control.chunk_max_age_s
        slack = BOUNDS_SLACK * (self._space.upper - self._space.lower)
        self._lower, self._upper = self._space.lower - slack, self._space.upper + slack

    def check(self, chunk: ReceivedChunk, now_ns: int) -> SafetyVerdict:
        """Return OK, or the hold that names the first thing wrong with ``chunk``."""
        return self._meaning(chunk) or self._age(chunk, now_ns) or self._numbers(chunk) or OK

    def limit(self, values: Float) -> tuple[Float, SafetyVerdict]:
        """Return checked actions (T, D) brought within their bounds, and what was changed."""
        limited = np.clip(values, self._space.lower, self._space.upper)
        # Rounding to float32 on the way is no change.
        beyond = np.abs(values - limited) > 1e-5 * (self._space.upper - self._space.lower)
        if not beyond.any():
            return limited, OK
        step, i = (int(k) for k in np.argwhere(beyond)[0])
        return limited, SafetyVerdict.command(Reason.STEP_BOUNDS, self._bounds(values, step, i))

    def _bounds(self, values: Float, step: int, i: int) -> str:
        space = self._space
        return (
            f"{space.names[i]} of step {step} is {values[step, i]:.6g}; "
            f"its limits are {space.lower[i]:g} .. {space.upper[i]:g} {space.units[i]}"
        )

    def _meaning(self, chunk: ReceivedChunk) -> SafetyVerdict | None:
        names, width = self._space.names, self._space.width
        if chunk.values.ndim != 2 or chunk.values.shape[1] != width or not len(chunk.values):
            return SafetyVerdict.hold(
                Reason.WIDTH, f"actions have shape {chunk.values.shape}; they must be (steps, {width})"
            )
        if tuple(chunk.names) != names:
            return SafetyVerdict.hold(
                Reason.SPACE, f"actions are named {chunk.names}; the robot takes {names}"
            )
        if chunk.frame_id != self._frame_id:
            return SafetyVerdict.hold(
                Reason.SPACE, f"actions are along {chunk.frame_id!r}; the robot takes {self._frame_id!r}"
            )
        if not abs(chunk.step_s - self._space.step_s) <= STEP_TOLERANCE * self._space.step_s:
            return SafetyVerdict.hold(
                Reason.TIMING, f"one step lasts {chunk.step_s} s; the robot takes {self._space.step_s} s"
            )
        return None

    def _age(self, chunk: ReceivedChunk, now_ns: int) -> SafetyVerdict | None:
        age_s = (now_ns - chunk.stamp_ns) * 1e-9
        if age_s > self._max_age_s:
            return SafetyVerdict.hold(
                Reason.STALE, f"the observation is {age_s:.3f} s old; the limit is {self._max_age_s} s"
            )
        if age_s < -CLOCK_TOLERANCE_S:
            return SafetyVerdict.hold(
                Reason.FUTURE, f"the observation is stamped {-age_s:.3f} s ahead of the controller's clock"
            )
        return None

    def _numbers(self, chunk: ReceivedChunk) -> SafetyVerdict | None:
        bad = np.argwhere(~np.isfinite(chunk.values))
        if len(bad):
            step, i = (int(k) for k in bad[0])
            return SafetyVerdict.hold(
                Reason.NOT_FINITE, f"{self._space.names[i]} of step {step} is {chunk.values[step, i]}"
            )
        beyond = np.argwhere((chunk.values < self._lower) | (chunk.values > self._upper))
        if len(beyond):
            step, i = (int(k) for k in beyond[0])
            return SafetyVerdict.hold(Reason.STEP_BOUNDS, self._bounds(chunk.values, step, i))
        return None


class TargetLimits:
    """The box and the tilt that a commanded tool pose is kept within."""

    def __init__(self, profile: RobotProfile) -> None:
        self._lower = np.array(profile.limits.workspace_lower)
        self._upper = np.array(profile.limits.workspace_upper)
        self._tilt = profile.limits.tilt_rad
        self._axis = _tool_axis(profile.arm)

    def limit(self, target: Pose, previous: Pose) -> tuple[Pose, SafetyVerdict]:
        """Return ``target`` brought within the limits, and what was changed.

        A ``previous`` target outside them (the arm was found there) widens them to itself: the tool
        may come back in but never farther out.
        """
        lower = np.minimum(self._lower, previous.position)
        upper = np.maximum(self._upper, previous.position)
        position = np.minimum(np.maximum(target.position, lower), upper)
        verdict = OK
        off = np.abs(target.position - position)
        if off.max() > 1e-9:
            i = int(np.argmax(off))
            verdict = SafetyVerdict.command(
                Reason.WORKSPACE,
                f"{'xyz'[i]} {target.position[i]:.4f} m kept within {self._lower[i]:g} .. {self._upper[i]:g}",
            )
        rotation = target.rotation
        tilt, allowed = self.tilt(rotation), max(self._tilt, self.tilt(previous.rotation))
        if tilt > allowed + 1e-9:
            rotation = self._upright(rotation, tilt - allowed)
            verdict = SafetyVerdict.command(
                Reason.TILT, f"the tool's tilt of {tilt:.3f} rad is kept at {allowed:.3f} rad"
            )
        return (target if verdict is OK else Pose(position, rotation)), verdict

    def tilt(self, rotation: Float) -> float:
        """Return the angle in radians between the tool's axis and straight down."""
        return math.acos(min(1.0, max(-1.0, -float(rotation[2] @ self._axis))))

    def excess_tilt(self, rotations: Float) -> Float:
        """Return by how much the tool tilts beyond its limit (B,), negative within, for (B, 3, 3)."""
        excess: Float = np.arccos(np.clip(-rotations[:, 2] @ self._axis, -1.0, 1.0)) - self._tilt
        return excess

    def outside_m(self, positions: Float) -> Float:
        """Return how far ``positions`` (B, 3) lie outside the workspace box (B,), negative inside."""
        outside: Float = np.maximum(self._lower - positions, positions - self._upper).max(axis=1)
        return outside

    def _upright(self, rotation: Float, excess: float) -> Float:
        axis = rotation @ self._axis
        turn = np.cross(axis, [0.0, 0.0, -1.0])
        length = float(np.linalg.norm(turn))
        if length < 1e-9:  # pointing straight up: any way down is as good
            turn, length = np.array([1.0, 0.0, 0.0]), 1.0
        return orthonormal(transform_rotvec_to_matrix(turn / length * excess) @ rotation)


class MotionChecks:
    """Where a joint motion would lead: each other's links, the table, the workspace, the tilt.

    A motion is judged at its next sample and along the stop from there, so that an arm that has
    been let move can always stop in time. An arm that was found beyond a limit (parked outside the
    workspace) may move as long as it does not go farther beyond.
    """

    def __init__(self, profile: RobotProfile, chain: KinematicChain, targets: TargetLimits) -> None:
        limits, arm = profile.limits, profile.arm
        fingers = {profile.gripper.joint: profile.gripper.open_m}
        self._chain = chain
        self._targets = targets
        self._collision = SelfCollision(chain, fingers, (arm.home, arm.neutral, arm.park))
        self._table = None
        self._clearance_m = limits.table_clearance_m
        if limits.table_height_m is not None:
            self._table = TableClearance(chain, fingers, limits.table_height_m)
        self._workspace_tolerance_m = limits.workspace_tolerance_m

    def check(self, now: Float, after: Float) -> SafetyVerdict:
        """Return OK, or the hold that names where going from ``now`` (J,) to ``after`` (K, J) leads."""
        frames = self._chain.frames(np.concatenate([now[None], after]))
        tool = frames[:, -1]
        return (
            self._links(frames)
            or self._workspace(self._targets.outside_m(tool[:, :3, 3]))
            or self._tilt(self._targets.excess_tilt(tool[:, :3, :3]))
            or OK
        )

    def check_line(self, points: Float) -> SafetyVerdict:
        """Return OK, or the hold that names which links, or the table, a line of joints (K, J) runs into."""
        return self._links(self._chain.frames(points)) or OK

    def _links(self, frames: Float) -> SafetyVerdict | None:
        found = _first_worse(self._collision.margins(frames))
        if found is not None:
            pair = " and ".join(self._collision.pair(found[1]))
            return SafetyVerdict.hold(
                Reason.SELF_COLLISION, f"{pair} would be {-found[0]:.4f} m nearer than allowed"
            )
        if self._table is None:
            return None
        found = _first_worse(self._table.margins(frames) - self._clearance_m + TABLE_TOLERANCE_M)
        if found is None:
            return None
        link, height_m = self._table.link(found[1]), found[0] + self._clearance_m - TABLE_TOLERANCE_M
        return SafetyVerdict.hold(
            Reason.TABLE,
            f"{link} would be {height_m:.4f} m above the table; the limit is {self._clearance_m} m",
        )

    def _workspace(self, outside_m: Float) -> SafetyVerdict | None:
        limit = self._workspace_tolerance_m
        reserve = min(SAMPLING_RESERVE_M, limit / 2)
        found = _first_worse((limit - reserve - outside_m)[:, None])
        if found is None:
            return None
        outside = limit - reserve - found[0]
        return SafetyVerdict.hold(
            Reason.WORKSPACE,
            f"the tool would be {outside:.4f} m outside the workspace; the limit is {limit} m",
        )

    def _tilt(self, excess_rad: Float) -> SafetyVerdict | None:
        found = _first_worse((TILT_TOLERANCE_RAD - excess_rad)[:, None])
        if found is None:
            return None
        excess = TILT_TOLERANCE_RAD - found[0]
        return SafetyVerdict.hold(
            Reason.TILT,
            f"the tool would tilt {excess:.3f} rad beyond its limit; {TILT_TOLERANCE_RAD} rad is allowed",
        )


def _first_worse(margins: Float) -> tuple[float, int] | None:
    """Return the worst of ``margins`` (K, M) that is negative and worse than in row 0, and its column."""
    floor = np.minimum(0.0, margins[0]) - 1e-9
    short = margins[1:] - floor
    worst = int(np.argmin(short))
    if short.flat[worst] >= 0.0:
        return None
    return float(margins[1:].flat[worst]), worst % margins.shape[1]


def _tool_axis(arm: ArmProfile) -> Float:
    if arm.tool_axis is None:
        down = np.array([0.0, 0.0, -1.0])
        axis: Float = transform_euler_to_matrix(arm.state_rotation_offset).T @ down
        return axis
    axis = np.array(arm.tool_axis)
    length = float(np.linalg.norm(axis))
    if length < 1e-6:
        raise ProfileError(f"arm.tool_axis is {arm.tool_axis}; it must have a direction")
    return axis / length


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
