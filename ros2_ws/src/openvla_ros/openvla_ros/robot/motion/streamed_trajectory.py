"""The trajectory of each control period: where the arm is, where it should be shortly after, and a stop.

A joint trajectory controller discards the previous trajectory when a new one arrives and, by default,
starts at the measured state: an arm lags behind its commands, so at each message the command would jump
back to the arm. Only a point that is already due keeps it on the commanded motion. So each trajectory
starts with the motion of the last few periods, from a point that was due two periods ago: the first
command of a stop is sent up to one period early, and the other is a margin for a robot whose clock is
behind. It is the same motion whichever message is executed. Every point is absolute in time: late,
duplicated or lost messages do not change the motion, as long as one message arrives before the known
motion ends and the stop begins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimits
from openvla_ros.robot.motion.stop_trajectory import stopped_after, trailing_stop
from openvla_ros.values.arrays import Float
from openvla_ros.values.time import NS_PER_S, nanoseconds

DUE_PERIODS = 2  # a trajectory begins with a point that was due so many periods ago
NEXT_PERIODS = 1.5  # a motion due within this many periods is the next one
# A later one this close to the end of the previous one's stop continues from there.
ON_THE_WAY_RAD, ON_THE_WAY_RAD_S = 1e-6, 1e-5


@dataclass(frozen=True, eq=False)
class StreamedTrajectory:
    """The contents of one message."""

    stamp_ns: int  # 0: counted from when it is received
    times_s: Float  # (N,) after the stamp, whole nanoseconds
    positions: Float  # (N, J) rad
    velocities: Float  # (N, J) rad/s, the last 0


@dataclass(frozen=True, eq=False)
class _Due:
    due_ns: int
    position: Float
    velocity: Float


class TrajectoryStream:
    """Turns the motion of each period into the trajectory to send."""

    def __init__(self, limits: MotionLimits, lookahead_s: float) -> None:
        """``lookahead_s`` is how far ahead of its time a motion is sent; 0: times count from reception."""
        self._limits, self._lookahead_ns = limits, nanoseconds(lookahead_s)
        self._motion: JointMotion | None = None
        self._before: list[_Due] = []  # motions that were sent and are not finished, the newest last
        self._stop: list[_Due] = []  # what follows it

    def next(self, stamp_ns: int, period_s: float, motion: JointMotion) -> StreamedTrajectory:
        """Return the trajectory for ``motion``, of the period at ``stamp_ns``."""
        period_ns = nanoseconds(period_s)
        due_ns = stamp_ns + (self._lookahead_ns or period_ns)
        self._forget_what_is_not_led_to(motion, due_ns, period_ns)
        if not self._before:
            self._before = _start(motion, due_ns, period_ns)
        self._motion = motion
        stop = trailing_stop(motion, self._limits)
        points = [
            _Due(due_ns + nanoseconds(t), position, velocity)
            for t, position, velocity in zip(stop.times_s, stop.positions, stop.velocities, strict=True)
        ]
        self._before = [*self._known_from(due_ns, stamp_ns - DUE_PERIODS * period_ns), points[0]]
        self._stop = points[1:]
        sent = [*self._before, *self._stop]
        if self._lookahead_ns == 0:  # begins with the motion before, at the time 0
            sent = [*self._before[-2:], *self._stop]
            start_ns = due_ns - period_ns
        else:
            start_ns = min(sent[0].due_ns, stamp_ns)
        return StreamedTrajectory(
            start_ns if self._lookahead_ns else 0,
            np.array([max(0, point.due_ns - start_ns) for point in sent]) / NS_PER_S,
            np.array([point.position for point in sent]),
            np.array([point.velocity for point in sent]),
        )

    def _known_from(self, until_ns: int, since_ns: int) -> list[_Due]:
        """Return the motion before ``until_ns``, starting at the last point due by ``since_ns``."""
        known = [point for point in (*self._before, *self._stop) if point.due_ns < until_ns]
        past = sum(point.due_ns <= since_ns for point in known)
        return known[max(0, past - 1) :]

    def _forget_what_is_not_led_to(self, motion: JointMotion, due_ns: int, period_ns: int) -> None:
        """Start over if ``motion`` does not continue the previous period or its stop."""
        if self._motion is None:
            return
        since_ns = due_ns - self._before[-1].due_ns
        if 0 < since_ns <= NEXT_PERIODS * period_ns:
            self._stop = []  # it does not come to that
            return
        led_to = since_ns > 0
        if led_to:
            expected = stopped_after(self._motion, self._limits, since_ns / NS_PER_S)
            off = np.abs(motion.position - expected.position), np.abs(motion.velocity - expected.velocity)
            led_to = bool(off[0].max() < ON_THE_WAY_RAD and off[1].max() < ON_THE_WAY_RAD_S)
        if not led_to:
            self._before, self._stop = [], []


def _start(motion: JointMotion, due_ns: int, period_ns: int) -> list[_Due]:
    """Return the rest from which ``motion`` started one period ago, if so: it was never sent."""
    period_s = period_ns / NS_PER_S
    if np.abs(motion.velocity - 0.5 * motion.acceleration * period_s).max() > ON_THE_WAY_RAD_S:
        return []
    position = motion.position - motion.acceleration * period_s**2 / 6.0
    return [_Due(due_ns - period_ns, position, np.zeros_like(position))]
