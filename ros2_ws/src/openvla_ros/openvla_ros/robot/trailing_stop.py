"""The stop that every streamed trajectory ends in: what the arm does if nobody commands it any more.

Pure numbers; the joint trajectory back end appends it to each message, so that the robot's own
controller brakes within the limits when this program was killed. Not the stop of the controller
itself, which knows the workspace and plans from what it commanded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openvla_ros.arrays import Float
from openvla_ros.profile import RobotProfile

# Samples of the braking curve; cubic interpolation between them is within 1e-3 of its length.
BRAKE_SAMPLES = 4
STILL_RAD_S = 1e-4


@dataclass(frozen=True, eq=False)
class StopPlan:
    """Samples from the given state to rest; the last velocity is zero."""

    times_s: Float  # (N,) after the given state, the first 0
    positions: Float  # (N, J) rad
    velocities: Float  # (N, J) rad/s


@dataclass(frozen=True, eq=False)
class Braking:
    """The limits that a stop keeps."""

    lower: Float  # (J,) rad
    upper: Float  # (J,) rad
    acceleration: Float  # (J,) rad/s²
    jerk: Float  # (J,) rad/s³

    @classmethod
    def from_profile(cls, profile: RobotProfile) -> Braking:
        """Return the braking of ``profile``'s arm."""
        limits = profile.limits
        return cls(
            *map(
                np.array,
                (limits.joint_lower, limits.joint_upper, limits.joint_acceleration, limits.joint_jerk),
            )
        )

    def stop_after(
        self, positions: Float, velocities: Float, accelerations: Float, late_s: float
    ) -> StopPlan:
        """Return how the arm goes on for ``late_s`` from the given state (J,) and then comes to rest.

        It goes on at its velocity, or slows down as it was doing already; the stop takes the time
        that acceleration and jerk allow, the same for all joints. Positions stay within the
        joint limits.
        """
        if np.all(np.abs(velocities) < STILL_RAD_S):
            rest = np.clip(positions, self.lower, self.upper)
            return StopPlan(np.zeros(1), rest[None], np.zeros((1, len(rest))))
        slowing = _slowing(velocities, accelerations, late_s)
        reached = positions + velocities * late_s + 0.5 * slowing * late_s**2
        speed = velocities + slowing * late_s
        duration = self._duration_s(speed)
        s = np.linspace(0.0, 1.0, BRAKE_SAMPLES + 1)[:, None]
        # v(s) = v0 (2s³ - 3s² + 1) + a0 T (s³ - 2s² + s): ends at rest without a step in acceleration.
        brake_v = speed * (2 * s**3 - 3 * s**2 + 1) + slowing * duration * (s**3 - 2 * s**2 + s)
        travel = speed * (s**4 / 2 - s**3 + s) + slowing * duration * (s**4 / 4 - 2 * s**3 / 3 + s**2 / 2)
        brake_q = reached + duration * travel
        times = late_s + duration * s[:, 0]
        if late_s > 0.0:
            times = np.concatenate([[0.0], times])
            brake_q = np.concatenate([positions[None], brake_q])
            brake_v = np.concatenate([velocities[None], brake_v])
        inside = np.clip(brake_q, self.lower, self.upper)
        return StopPlan(times, inside, np.where(inside == brake_q, brake_v, 0.0))

    def _duration_s(self, speed: Float) -> float:
        """Seconds from ``speed`` (J,) to rest: the curve's peaks are 1.5 v/T and 6 v/T²."""
        by_acceleration = 1.5 * np.abs(speed) / self.acceleration
        by_jerk = np.sqrt(6.0 * np.abs(speed) / self.jerk)
        return max(float(by_acceleration.max()), float(by_jerk.max()), 1e-3)


def _slowing(velocities: Float, accelerations: Float, late_s: float) -> Float:
    """Return the part of ``accelerations`` (J,) that slows down, no further than to zero speed."""
    against = np.where(accelerations * velocities < 0.0, np.abs(accelerations), 0.0)
    if late_s > 0.0:
        against = np.minimum(against, np.abs(velocities) / late_s)
    return -np.sign(velocities) * against
