"""Trajectories that end at rest, played as single setpoints to a driver that takes nothing else.

A driver that holds its last setpoint stops an arm dead when nobody feeds it any more. Here each
trajectory carries its own stop, as for a ros2_control joint trajectory controller: without a next one
the setpoints brake and rest, and then there are no more. Knows nothing of messages.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from openvla_ros.arrays import Float
from openvla_ros.errors import InvalidValueError
from openvla_ros.robot.trajectory_follower import TrajectoryFollower

# A setpoint that stands still is repeated for so long after the last trajectory; the driver holds it.
REPEAT_S = 1.0
# Without a sample for so long the driver has stopped the arm: going on would be a jump.
LONGEST_GAP_S = 0.1
# The fastest joint of a trajectory that may be joined: about what one control period from rest gives.
START_RAD_S = 0.1


class SetpointPlayer:
    """What to send at each moment; seconds of one clock."""

    def __init__(self, joints: Sequence[str]) -> None:
        self._joints = tuple(joints)
        self._follower: TrajectoryFollower | None = None
        self._ends_s = 0.0
        self._sampled_s: float | None = None

    def follow(
        self,
        names: Sequence[str],
        times_s: ArrayLike,
        positions: ArrayLike,
        velocities: ArrayLike,
        start_s: float,
        now_s: float,
    ) -> None:
        """Play points (T, J) in the order of ``names``, due ``times_s`` (T,) after ``start_s``.

        Raises ``InvalidValueError`` as ``TrajectoryFollower.follow``, and for a trajectory that is
        already moving while nothing is played: an arm at rest cannot join it.
        """
        times, rows = np.array(times_s, dtype=np.float64), np.array(positions, dtype=np.float64)
        follower = self._follower
        if follower is None:
            speeds = np.array(velocities, dtype=np.float64)
            if not len(rows) or not np.abs(speeds[0]).max(initial=0.0) <= START_RAD_S:
                raise InvalidValueError(
                    f"the trajectory begins at {np.round(speeds[:1], 3).tolist()} rad/s; "
                    f"an arm at rest joins one that begins below {START_RAD_S} rad/s"
                )
            order = [list(names).index(joint) for joint in self._joints if joint in names]
            follower = TrajectoryFollower(self._joints, rows[0, order])
        follower.follow(names, times, rows, velocities, start_s, now_s)
        self._follower, self._ends_s = follower, start_s + float(times[-1])

    def remaining_s(self, now_s: float) -> float:
        """Return for how long the setpoints still move, at most."""
        return 0.0 if self._follower is None else max(0.0, self._ends_s - now_s)

    def sample(self, now_s: float) -> Float | None:
        """Return the setpoint (J,) rad at ``now_s``, or None where nothing is to be sent."""
        before_s, self._sampled_s = self._sampled_s, now_s
        if self._follower is None:
            return None
        stood_still = before_s is not None and not 0.0 <= now_s - before_s <= LONGEST_GAP_S
        if stood_still or now_s - self._ends_s > REPEAT_S:
            self._follower = None
            return None
        return self._follower.sample(now_s)
