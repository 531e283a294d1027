"""A model of ros2_control's joint trajectory controller: how each release executes a message.

Follows ``joint_trajectory_controller`` in Humble (2.54), Jazzy (4.42), Kilted (5.17) and Rolling (6.9) for
position interfaces, all joints in each message and default parameters:

- refused are messages that name other joints, that have no points, whose times do not increase, whose
  values do not fit the names, that are over, and, but for Humble, that end with a velocity;
- a stamp of 0 means the next cycle;
- a new message replaces all of the one before at the next cycle; what runs to its first point, while
  that is still to come, starts at the measured state, or at the last command with
  ``interpolate_from_desired_state`` (Humble: ``open_loop_control``); where the first point is due
  already, the command is on the message's own curve at once, wherever it was before;
- Rolling keeps the running trajectory until a later stamp is due (``allow_trajectory_replacement``);
- Humble commands what is due now, the others what is due one cycle later;
- with velocities at both ends of a segment it is a cubic, with accelerations as well a quintic, with
  neither a line; with accelerations alone every joint is commanded to 0;
- the last point is held.

Non-finite values are refused here; the original accepts them. No limits are enforced, as in the original.
Knows nothing of messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from openvla_ros.errors import InvalidValueError
from openvla_ros.robot.motion.joint_path import JointPath, Segment, Waypoint
from openvla_ros.robot.motion.motion_limiter import JointMotion
from openvla_ros.values.arrays import Float, float_array

Release = Literal["humble", "jazzy", "kilted", "rolling"]
RELEASES: tuple[Release, ...] = get_args(Release)
# A last velocity below this counts as none: the rounding of a float, as in the original.
LAST_VELOCITY = float(np.finfo(np.float32).eps)
# The original counts whole nanoseconds: sums of seconds are compared to that many digits.
NS_DIGITS = 9


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Points due at times after a stamp, seconds; (J,) each, in the controller's order. No stamp: now."""

    stamp_s: float | None
    points: tuple[Waypoint, ...]  # their times count from the stamp

    @property
    def lasts_s(self) -> float:
        """Time from the stamp to the last point, seconds."""
        return self.points[-1].time_s


class JointTrajectoryController:
    """The commanded joint positions, cycle by cycle; times are seconds on one clock."""

    def __init__(
        self,
        joints: Sequence[str],
        positions: ArrayLike,
        cycle_s: float,
        release: Release = "kilted",
        interpolate_from_desired_state: bool = False,
    ) -> None:
        """Command ``positions`` (J,) of ``joints`` until a trajectory arrives."""
        self._joints = tuple(joints)
        self._release = release
        # How far ahead of its cycle a command is computed.
        self.ahead_s = 0.0 if release == "humble" else cycle_s
        self._from_desired = interpolate_from_desired_state
        command = JointMotion.at_rest(float_array("joint positions", positions, (len(self._joints),)))
        self.command, self._commanded_s = command, -np.inf
        self._new: Trajectory | None = None  # received, and taken up at the next cycle
        self._deferred: Trajectory | None = None
        self._running: tuple[Waypoint, ...] | None = None  # with absolute times; the first one is "before"

    def receive(
        self,
        names: Sequence[str],
        times_s: Sequence[float],
        positions: Sequence[ArrayLike],
        velocities: Sequence[ArrayLike],
        accelerations: Sequence[ArrayLike],
        stamp_s: float | None,
        now_s: float,
    ) -> None:
        """Receive a message: points due ``times_s`` after the stamp, in the order of ``names``.

        Empty velocities or accelerations of a point count as absent. Raises ``InvalidValueError`` with the
        reason if the original refuses the message; the current trajectory then continues.
        """
        points = self._points(names, times_s, positions, velocities, accelerations)
        last = points[-1].velocity
        moves = last is not None and bool(np.abs(last).max(initial=0.0) > LAST_VELOCITY)
        if last is not None and moves and self._release != "humble":
            raise InvalidValueError(
                f"the velocity of the last point is not zero: {np.round(last, 6).tolist()}"
            )
        trajectory = Trajectory(stamp_s, points)
        if stamp_s is not None and stamp_s + trajectory.lasts_s < now_s:
            over_s = now_s - stamp_s - trajectory.lasts_s
            raise InvalidValueError(f"the trajectory ends in the past, {over_s:.3f} s ago")
        self._new = trajectory

    def _points(
        self,
        names: Sequence[str],
        times_s: Sequence[float],
        positions: Sequence[ArrayLike],
        velocities: Sequence[ArrayLike],
        accelerations: Sequence[ArrayLike],
    ) -> tuple[Waypoint, ...]:
        if sorted(names) != sorted(self._joints):
            raise InvalidValueError(
                f"the trajectory names joints {list(names)}; this controller moves {list(self._joints)}"
            )
        order = [list(names).index(joint) for joint in self._joints]
        times = float_array("trajectory times", times_s, (None,))
        if not len(times) or np.any(np.diff(times) <= 0.0):
            raise InvalidValueError(f"trajectory times {np.round(times, 4).tolist()} must increase")

        q = _rows("positions", positions, order)
        v = _rows_if_any("velocities", velocities, order)
        a = _rows_if_any("accelerations", accelerations, order)
        return tuple(Waypoint(*point) for point in zip(times.tolist(), q, v, a, strict=True))

    def update(self, now_s: float, measured: Waypoint) -> JointMotion:
        """Return what is commanded in the cycle at ``now_s``; ``measured`` is the arm's state now."""
        now_s = round(now_s, NS_DIGITS)
        trajectory = self._to_install(now_s)
        if trajectory is not None:
            self._install(trajectory, now_s, measured)
        if self._running is not None:
            self.command = self._sample(self._running, round(now_s + self.ahead_s, NS_DIGITS))
            self._commanded_s = now_s
        return self.command

    def _to_install(self, now_s: float) -> Trajectory | None:
        new, self._new = self._new, None
        if new is not None:
            later = new.stamp_s is not None and new.stamp_s > now_s
            if self._release == "rolling" and later and self._running is not None:
                self._deferred, new = new, None
            else:
                self._deferred = None
        waiting = self._deferred
        if waiting is not None and waiting.stamp_s is not None and now_s >= waiting.stamp_s:
            new, self._deferred = waiting, None
        return new

    def _install(self, trajectory: Trajectory, now_s: float, measured: Waypoint) -> None:
        start_s = now_s if trajectory.stamp_s is None else trajectory.stamp_s
        first = trajectory.points[0]
        time_s, position, velocity, acceleration = now_s, measured.position, measured.velocity, None
        if self._from_desired:
            if self._release != "humble" and np.isfinite(self._commanded_s):
                time_s = self._commanded_s
            command = self.command
            position, velocity, acceleration = command.position, command.velocity, command.acceleration
        # What the state lacks and the first point has is taken as zero; a line would be the alternative.
        if velocity is None and first.velocity is not None:
            velocity = np.zeros_like(position)
        if acceleration is None and first.acceleration is not None:
            acceleration = np.zeros_like(position)
        points = [
            Waypoint(round(start_s + p.time_s, NS_DIGITS), p.position, p.velocity, p.acceleration)
            for p in trajectory.points
        ]
        self._running = (Waypoint(time_s, position, velocity, acceleration), *points)

    def _sample(self, points: tuple[Waypoint, ...], time_s: float) -> JointMotion:
        before, first, last = points[0], points[1], points[-1]
        if time_s < before.time_s:
            return self.command
        if time_s < first.time_s:
            return _between(before, first, time_s)
        for start, end in pairwise(points[1:]):
            if start.time_s <= time_s < end.time_s:
                return _between(start, end, time_s)
        still = np.zeros_like(last.position)
        velocity = still if last.velocity is None else last.velocity
        return JointMotion(last.position, velocity, still if last.acceleration is None else last.acceleration)

    def path(self) -> JointPath | None:
        """Return the path being followed; ``None`` if it is not a path through the points."""
        if self._running is None:
            return None
        before, *points = self._running
        if any(p.acceleration is not None and p.velocity is None for p in points):
            return None
        return JointPath([before, *points] if before.time_s < points[0].time_s else points)


def _between(start: Waypoint, end: Waypoint, time_s: float) -> JointMotion:
    moves = start.velocity is not None and end.velocity is not None
    bends = start.acceleration is not None and end.acceleration is not None
    if bends and not moves:
        return JointMotion.at_rest(np.zeros_like(start.position))
    return Segment(start, end).state(time_s)


def _rows(what: str, rows: Sequence[ArrayLike], order: Sequence[int]) -> list[Float]:
    """Return each point's values in ``order``; all at once, one by one only to name what is wrong."""
    width = len(order)
    if all(np.size(row) == width for row in rows):
        values = np.array(rows, dtype=np.float64)
        if values.shape == (len(rows), width) and np.isfinite(values).all():
            return list(values[:, order])
    return [float_array(f"{what} of point {i}", row, (width,))[order] for i, row in enumerate(rows)]


def _rows_if_any(what: str, rows: Sequence[ArrayLike], order: Sequence[int]) -> list[Float | None]:
    """Return each point's values in ``order``, or ``None`` for a point without."""
    has = [bool(np.size(row)) for row in rows]
    if all(has):
        return [*_rows(what, rows, order)]
    return [
        float_array(f"{what} of point {i}", row, (len(order),))[order] if has[i] else None
        for i, row in enumerate(rows)
    ]
