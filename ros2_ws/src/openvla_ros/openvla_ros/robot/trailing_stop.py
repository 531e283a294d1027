"""The stop that every streamed trajectory ends in: what the arm does if nobody commands it any more.

The joint trajectory back end appends it to each message, so that the robot's own controller brakes
within the limits when this program was killed or the network is gone. It is the same fastest stop
that the controller keeps possible at every tick, so it stays within the position limits too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openvla_ros.arrays import Float
from openvla_ros.robot.braking import JointMotion, MotionLimits, stop_phases, stop_state

# Samples of the stop; a controller on the robot joins them by cubics.
SAMPLES = 6


@dataclass(frozen=True, eq=False)
class Stop:
    """A joint trajectory from a motion to rest."""

    times_s: Float  # (N,) from 0
    positions: Float  # (N, J) rad, the first those of the motion
    velocities: Float  # (N, J) rad/s, the last 0


def trailing_stop(motion: JointMotion, limits: MotionLimits) -> Stop:
    """Return ``motion`` and the fastest stop from it, each joint by its own limits."""
    if motion.is_at_rest:
        return Stop(np.zeros(1), motion.position[None], np.zeros((1, len(motion.position))))
    joints = [
        (float(p), float(v), float(a), float(most_a), float(most_j))
        for p, v, a, most_a, most_j in zip(
            motion.position,
            motion.velocity,
            motion.acceleration,
            limits.acceleration,
            limits.jerk,
            strict=True,
        )
    ]
    longest = max(sum(stop_phases(v, a, most_a, most_j)[1:]) for _, v, a, most_a, most_j in joints)
    times = np.linspace(0.0, longest, SAMPLES + 1)
    states = np.array([[stop_state(*joint, float(t)) for joint in joints] for t in times])  # (N, J, 3)
    velocities = states[:, :, 1].copy()
    velocities[-1] = 0.0  # rounding would leave 1e-17, and some controllers insist on zero
    return Stop(times, states[:, :, 0], velocities)
