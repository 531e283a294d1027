"""The stop at the end of every streamed trajectory: what the arm does if the commands end.

The joint trajectory driver appends it to each message, so that the robot's own controller brakes within
the limits if this program was killed or the network is down. It is the same fastest stop that the
controller keeps possible at every tick, so it stays within the position limits too.

Its points are where a joint's jerk changes. Between them every joint moves with constant jerk, which is
the cubic that a controller on the robot interpolates between two points with velocities. So the robot
executes exactly this stop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openvla_ros.robot.motion.fastest_stop import moments_along, stop_phases, stop_state
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimits
from openvla_ros.values.arrays import Float

# Changes of jerk closer together than this are one point, seconds: messages carry whole nanoseconds, and
# a cubic over a few of them would be all rounding.
CLOSEST_S = 1e-4
# Smaller motions count as rest; a stop from a larger motion takes at least this long.
STILL_RAD_S, STILL_RAD_S2, SHORTEST_S = 1e-9, 1e-6, 1e-3


@dataclass(frozen=True, eq=False)
class Stop:
    """A joint trajectory from a motion to rest."""

    times_s: Float  # (N,) from 0
    positions: Float  # (N, J) rad, the first those of the motion
    velocities: Float  # (N, J) rad/s, the last 0


def trailing_stop(motion: JointMotion, limits: MotionLimits) -> Stop:
    """Return ``motion`` and the fastest stop from it, each joint by its own limits."""
    still = np.abs(motion.velocity).max() < STILL_RAD_S and np.abs(motion.acceleration).max() < STILL_RAD_S2
    if still:
        return Stop(np.zeros(1), motion.position[None], np.zeros((1, len(motion.position))))
    joints = _joints(motion, limits)
    stops = [(*joint[:3], stop_phases(*joint[1:])) for joint in joints]
    times = _changes([phases[1:] for *_, phases in stops])
    due = times.tolist()
    moments = np.array([moments_along(*stop, due) for stop in stops])  # (J, N, 2)
    positions, velocities = moments[:, :, 0].T.copy(), moments[:, :, 1].T.copy()
    velocities[-1] = 0.0  # rounding would leave 1e-17, and some controllers require exactly zero
    return Stop(times, positions, velocities)


def stopped_after(motion: JointMotion, limits: MotionLimits, seconds: float) -> JointMotion:
    """Return the motion ``seconds`` along that stop."""
    states = np.array([stop_state(*joint, seconds) for joint in _joints(motion, limits)])
    return JointMotion(*states.T)


def _joints(motion: JointMotion, limits: MotionLimits) -> list[tuple[float, float, float, float, float]]:
    rows = motion.position, motion.velocity, motion.acceleration, limits.acceleration, limits.jerk
    return [
        (p, v, a, most_a, most_j) for p, v, a, most_a, most_j in zip(*(r.tolist() for r in rows), strict=True)
    ]


def _changes(phases: list[tuple[float, float, float]]) -> Float:
    """Return 0 and when the jerk of a joint changes, from the durations of each joint's phases, seconds."""
    ends = np.unique(np.round(np.cumsum(phases, axis=1), 9))  # what a message can say, and no later
    times = [0.0]
    for end in ends[:-1]:
        if end - times[-1] > CLOSEST_S and ends[-1] - end > CLOSEST_S:
            times.append(float(end))
    return np.array([*times, max(float(ends[-1]), SHORTEST_S)])
