"""Setpoints as they arrive, and the motion through them a moment later.

The setpoint node sends 100 setpoints a second, the references that franky tracks are 200. So setpoints are
played with a delay that covers the jitter of two processes and DDS, interpolated by cubics. Where the next
setpoint is not there in time, nothing is extrapolated: the driver brakes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from openvla_ros.errors import InvalidValueError
from openvla_ros.robot.motion.joint_path import Segment, Waypoint
from openvla_ros.robot.motion.motion_limiter import JointMotion
from openvla_ros.values.arrays import Float, float_array

# The delay, in periods of the setpoints.
DELAY_PERIODS = 2.5
# An older setpoint, or one from the future, is refused: its clock or its process is not to be trusted.
LATE_S, AHEAD_S = 0.1, 0.05
# The fastest joint of setpoints that an arm at rest may take up: about what the first periods from rest give.
START_RAD_S = 0.1
KEPT_S = 1.0


@dataclass(frozen=True, eq=False)
class Setpoint:
    """Where the joints should be at a time; (J,) rad, rad/s."""

    stamp_s: float
    position: Float
    velocity: Float


class SetpointBuffer:
    """The setpoints of the last second, in order."""

    def __init__(self, joints: int, period_s: float) -> None:
        """``period_s`` is the setpoints' period."""
        self._joints = joints
        self.delay_s = DELAY_PERIODS * period_s
        self._kept: deque[Setpoint] = deque()

    def add(self, setpoint: Setpoint, now_s: float) -> None:
        """Keep ``setpoint``.

        Raises ``InvalidValueError`` for another number of joints, a value that is not finite, and a stamp
        that is too old, in the future, or not after the one before.
        """
        for name in ("position", "velocity"):
            float_array(f"setpoint {name}", getattr(setpoint, name), (self._joints,))
        age_s = now_s - setpoint.stamp_s
        if not -AHEAD_S <= age_s <= LATE_S:
            raise InvalidValueError(
                f"a setpoint is {age_s:.3f} s old; it must be between -{AHEAD_S} and {LATE_S} s: "
                "the setpoint node stalled, or its computer's clock differs from this one's"
            )
        if self._kept and setpoint.stamp_s <= self._kept[-1].stamp_s:
            back_s = self._kept[-1].stamp_s - setpoint.stamp_s
            if back_s <= LATE_S:
                raise InvalidValueError(f"a setpoint's stamp is {back_s:.3f} s before the last one's")
            self._kept.clear()  # the clock went back: what is kept lies in its future
        self._kept.append(setpoint)
        while self._kept[0].stamp_s < setpoint.stamp_s - KEPT_S:
            self._kept.popleft()

    def at(self, now_s: float) -> JointMotion | None:
        """Return the motion to refer to at ``now_s``, or None if its setpoints have not arrived."""
        time_s = now_s - self.delay_s
        kept = list(self._kept)
        if not kept or kept[-1].stamp_s < time_s:
            return None
        after = next(i for i, setpoint in enumerate(kept) if setpoint.stamp_s >= time_s)
        if after == 0:
            return None
        one, other = kept[after - 1], kept[after]
        if other.stamp_s - one.stamp_s > self.delay_s + 1e-9:  # what was between them is lost
            return None
        segment = Segment(_waypoint(one), _waypoint(other))
        return segment.state(time_s)

    def starting(self, now_s: float) -> Float | None:
        """Return where setpoints are that an arm at rest may take up now (J,), rad, or None without any."""
        newest = self._kept[-1] if self._kept else None
        if newest is None or now_s - newest.stamp_s > self.delay_s:
            return None
        return newest.position if np.abs(newest.velocity).max() <= START_RAD_S else None


def _waypoint(setpoint: Setpoint) -> Waypoint:
    return Waypoint(setpoint.stamp_s, setpoint.position, setpoint.velocity)
