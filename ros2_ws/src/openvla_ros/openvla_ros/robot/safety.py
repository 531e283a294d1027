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
from numpy.typing import NDArray

from openvla_ros.action import ActionChunk
from openvla_ros.arrays import Float
from openvla_ros.geometry import Pose, transform_euler_to_matrix, transform_rotvec_to_matrix
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.composition import orthonormal
from openvla_ros.verdict import Reason, SafetyVerdict

# Clocks of two machines may differ by this much before a stamp counts as coming from the future.
CLOCK_TOLERANCE_S = 0.05
# A chunk's step may differ from the action space's by this share.
STEP_TOLERANCE = 0.02
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
        # Rounding to float32 on the way must not refuse a value on the bound.
        reach = np.maximum(np.abs(self._space.lower), np.abs(self._space.upper))
        self._lower = self._space.lower - 1e-5 * reach
        self._upper = self._space.upper + 1e-5 * reach

    def check(self, chunk: ReceivedChunk, now_ns: int) -> SafetyVerdict:
        """Return OK, or the hold that names the first thing wrong with ``chunk``."""
        return self._meaning(chunk) or self._age(chunk, now_ns) or self._numbers(chunk) or OK

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
            return SafetyVerdict.hold(
                Reason.STEP_BOUNDS,
                f"{self._space.names[i]} of step {step} is {chunk.values[step, i]:.6g}; "
                f"its limits are {self._space.lower[i]:g} .. {self._space.upper[i]:g} {self._space.units[i]}",
            )
        return None


class TargetLimits:
    """The box and the tilt that a commanded tool pose is kept within."""

    def __init__(self, profile: RobotProfile) -> None:
        self._lower = np.array(profile.limits.workspace_lower)
        self._upper = np.array(profile.limits.workspace_upper)
        self._tilt = profile.limits.tilt_rad
        down = np.array([0.0, 0.0, -1.0])
        # The tool's own axis that points down when its recorded rotation is zero.
        self._axis: Float = transform_euler_to_matrix(profile.arm.state_rotation_offset).T @ down

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

    def outside_m(self, position: Float) -> float:
        """Return how far ``position`` (3,) lies outside the workspace box, 0 inside."""
        return float(np.max(np.maximum(self._lower - position, position - self._upper), initial=0.0))

    def _upright(self, rotation: Float, excess: float) -> Float:
        axis = rotation @ self._axis
        turn = np.cross(axis, [0.0, 0.0, -1.0])
        length = float(np.linalg.norm(turn))
        if length < 1e-9:  # pointing straight up: any way down is as good
            turn, length = np.array([1.0, 0.0, 0.0]), 1.0
        return orthonormal(transform_rotvec_to_matrix(turn / length * excess) @ rotation)


@dataclass(frozen=True, eq=False)
class RobotState:
    """What the robot last reported of itself; joints in the profile's order."""

    stamp_ns: int
    positions: Float  # (J,) rad
    velocities: Float | None = None
    effort: Float | None = None


class StateChecks:
    """What the robot's reports must be for it to be moved."""

    def __init__(self, profile: RobotProfile) -> None:
        self._joints = profile.arm.joints
        self._max_age_s = profile.state.max_age_s
        limits = profile.limits
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
