"""The first checks of a received chunk: meaning, age, numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openvla_ros.profile import RobotProfile
from openvla_ros.robot.safety import CLOCK_TOLERANCE_S
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.arrays import Float
from openvla_ros.values.time import seconds
from openvla_ros.values.verdict import OK, Reason, SafetyVerdict

# Values beyond their bounds by up to this fraction of the bounds' width are clipped, not refused: recorded
# actions of BridgeData V2 exceed theirs by a few percent. Anything larger is not an action of this space.
BOUNDS_SLACK = 0.1
# Values that state a target are refused beyond theirs; this fraction is rounding on the way.
ROUNDING = 1e-5
# A chunk's step duration may differ from the action space's by this fraction.
STEP_TOLERANCE = 0.02


@dataclass(frozen=True, eq=False)
class ReceivedChunk:
    """A received chunk, before any check."""

    names: tuple[str, ...]
    frame_id: str
    stamp_ns: int  # of the observation
    step_s: float
    values: NDArray[np.float64]  # (T, D) if the sender is correct
    units: tuple[str, ...] | None = None  # None: not stated, as in a message

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
            chunk.space.units,
        )


class ChunkChecks:
    """Checks a chunk before anything else is done with it."""

    def __init__(self, profile: RobotProfile) -> None:
        self._space = profile.space()
        self._frame_id = profile.action_frame_id()
        self._max_age_s = profile.control.chunk_max_age_s
        self._horizon_s = profile.control.chunk_horizon_s
        share = ROUNDING if self._space.is_absolute else BOUNDS_SLACK
        slack = share * (self._space.upper - self._space.lower)
        self._lower, self._upper = self._space.lower - slack, self._space.upper + slack

    def check(self, chunk: ReceivedChunk, now_ns: int) -> SafetyVerdict:
        """Return OK, or a hold that names the first problem of ``chunk``."""
        return self._meaning(chunk) or self._age(chunk, now_ns) or self._numbers(chunk) or OK

    def limit(self, values: Float) -> tuple[Float, SafetyVerdict]:
        """Return the checked actions (T, D), clipped to their bounds, and a verdict on what was clipped."""
        limited = np.clip(values, self._space.lower, self._space.upper)
        beyond = np.abs(values - limited) > ROUNDING * (self._space.upper - self._space.lower)
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
                Reason.SPACE, f"actions are named {chunk.names}; the robot expects {names}"
            )
        if chunk.units is not None and tuple(chunk.units) != self._space.units:
            return SafetyVerdict.hold(
                Reason.SPACE, f"actions are in {chunk.units}; the robot expects {self._space.units}"
            )
        if chunk.frame_id != self._frame_id:
            return SafetyVerdict.hold(
                Reason.SPACE, f"actions are in frame {chunk.frame_id!r}; the robot expects {self._frame_id!r}"
            )
        if not abs(chunk.step_s - self._space.step_s) <= STEP_TOLERANCE * self._space.step_s:
            return SafetyVerdict.hold(
                Reason.TIMING, f"one step lasts {chunk.step_s} s; the robot expects {self._space.step_s} s"
            )
        motion_s = len(chunk.values) * self._space.step_s
        if motion_s > self._horizon_s * (1.0 + STEP_TOLERANCE) and len(chunk.values) > 1:
            return SafetyVerdict.hold(
                Reason.TIMING,
                f"{len(chunk.values)} steps are {motion_s:g} s of motion; the limit for one chunk is "
                f"{self._horizon_s:g} s (control.chunk_horizon_s)",
            )
        return None

    def _age(self, chunk: ReceivedChunk, now_ns: int) -> SafetyVerdict | None:
        age_s = seconds(now_ns - chunk.stamp_ns)
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
