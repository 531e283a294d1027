"""Plays trajectories that end at rest as single setpoints, for drivers that take nothing else.

A driver that holds its last setpoint stops an arm abruptly when the setpoints end. Here each trajectory
contains its own stop, as for a ros2_control joint trajectory controller: without a next one, the setpoints
brake to rest, and then end. Knows nothing of messages.

Each setpoint is reachable in one period within the limits from the last one sent (``SetpointLimiter``):
late, lost, duplicated or reordered messages change where the setpoints go, never how fast. A driver
without setpoints for a while has held the last one, so the next one starts at rest there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from openvla_ros.errors import InvalidValueError
from openvla_ros.robot.motion.command_clock import CommandClock, Tick
from openvla_ros.robot.motion.joint_path import JointPath, Waypoint
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimits
from openvla_ros.robot.motion.setpoint_limiter import SetpointLimiter
from openvla_ros.values.arrays import Float, float_array
from openvla_ros.values.time import nanoseconds, seconds

# A setpoint at rest is repeated for this long after the last trajectory; the driver holds it.
REPEAT_S = 1.0
# Without a setpoint for this long the driver has stopped the arm: the next one starts at rest. Shorter
# gaps are the jitter of a loop on an ordinary kernel, which the arm does not follow.
LONGEST_GAP_S = 0.04
# The fastest joint of a trajectory that may be joined: about what one control period from rest gives.
START_RAD_S = 0.1
# How far the setpoints may lag behind their trajectory and catch up; the controller has checked the
# trajectory for collisions, not the way to it. Farther off, they brake and wait for one from rest.
LEASH_RAD = 0.1
# From this distance, rad, a trajectory counts as blended into.
BLENDED_RAD = 1e-4
# An arm rests if it was measured for this long, without a gap of this long, within this range.
STANCE_S, STANCE_BREAK_S, STANCE_RAD = 0.5, 0.2, 0.01

Report = Callable[[str, str], None]


class Stance:
    """Detects where an arm rests: measured at one place, without gaps, for a while up to now."""

    def __init__(self) -> None:
        self._place: Float | None = None
        self._since_s = self._seen_s = 0.0

    def observe(self, measured: Float, now_s: float) -> None:
        """Update with the measured joint positions (J,), rad."""
        before = self._place
        unbroken = 0.0 <= now_s - self._seen_s <= STANCE_BREAK_S
        if before is None or not unbroken or not _far(measured, before) < STANCE_RAD:
            self._place, self._since_s = np.array(measured), now_s
        self._seen_s = now_s

    def place(self, now_s: float) -> Float | None:
        """Return that place (J,), rad, or None while the arm moves or is not measured."""
        seen = 0.0 <= now_s - self._seen_s <= STANCE_BREAK_S
        return self._place if seen and self._seen_s - self._since_s >= STANCE_S else None


class SetpointPlayer:
    """The setpoint to send at each time; seconds on one clock, relative to a recent epoch."""

    def __init__(
        self,
        joints: Sequence[str],
        limits: MotionLimits,
        period_s: float,
        elsewhere_rad: float,
        report: Report = lambda reason, text: None,
    ) -> None:
        """``elsewhere_rad`` is how far from its setpoint an arm may rest without counting as moved.

        ``report`` is called with a key and a sentence for anything not played as received.
        """
        self._joints, self._elsewhere_rad, self._report = tuple(joints), elsewhere_rad, report
        self._limiter = SetpointLimiter(limits, period_s)
        self._period_ns = nanoseconds(period_s)
        self._clock = CommandClock(period_s, LONGEST_GAP_S)
        self._path: JointPath | None = None
        self._sent: JointMotion | None = None
        self._before: JointMotion | None = None  # the setpoint before that one
        self._sent_s = 0.0
        self._leash_rad = LEASH_RAD
        self._announced = False
        self._stance = Stance()

    def observe(self, measured: Float, now_s: float) -> None:
        """Update with the measured joints (J,), rad: an arm that rests elsewhere is picked up there."""
        self._stance.observe(measured, now_s)

    def follow(
        self,
        names: Sequence[str],
        times_s: ArrayLike,
        positions: Sequence[ArrayLike],
        velocities: Sequence[ArrayLike],
        start_s: float,
        now_s: float,
    ) -> None:
        """Play points (T, J) in the order of ``names``, due ``times_s`` (T,) after ``start_s``.

        Raises ``InvalidValueError`` for other joints, non-increasing times, non-finite values, a trajectory
        in the past, one that is already moving while nothing is played (an arm at rest cannot join it), and
        one that is too far away to catch up with. The current trajectory then continues.
        """
        path = _path(self._joints, names, times_s, positions, velocities, start_s)
        if path.end_s < now_s:
            raise InvalidValueError(f"the trajectory ended {now_s - path.end_s:.3f} s ago")
        if self._path is None:
            self._begin(path, now_s)
        else:
            self._go_on(path)

    def _begin(self, path: JointPath, now_s: float) -> None:
        first = path.state(max(now_s, path.waypoints[0].time_s))
        speed = np.abs(first.velocity).max(initial=0.0)
        if not speed <= START_RAD_S:
            raise InvalidValueError(
                f"the trajectory already moves at {speed:.3f} rad/s; "
                f"an arm at rest can join one that starts below {START_RAD_S} rad/s"
            )
        sent = self._sent or JointMotion.at_rest(first.position)
        stands = self._stance.place(now_s)
        if sent.is_at_rest and stands is not None and _far(stands, sent.position) > self._elsewhere_rad:
            sent = JointMotion.at_rest(stands)  # something else has moved it
        off_rad = _far(first.position, sent.position)
        most_rad = self._elsewhere_rad if sent.is_at_rest else LEASH_RAD
        if off_rad > most_rad:
            raise InvalidValueError(
                f"the trajectory starts {off_rad:.3f} rad from the arm; the limit is {most_rad} rad"
            )
        self._report_blend(off_rad)
        if sent.is_at_rest:
            self._clock = CommandClock(self._limiter.period_s, LONGEST_GAP_S)
            now_ns = nanoseconds(now_s)
            self._clock.tick(now_ns)
            # Setpoints are due when the trajectory's points are: then they are those points.
            phase_ns = (now_ns - nanoseconds(path.waypoints[0].time_s)) % self._period_ns
            self._clock.stamp_ns -= phase_ns - (self._period_ns if 2 * phase_ns > self._period_ns else 0)
        self._announced = self._announced and sent is self._sent
        self._path, self._sent = path, sent
        self._leash_rad = LEASH_RAD + off_rad

    def _go_on(self, path: JointPath) -> None:
        assert self._path is not None
        assert self._sent is not None
        stamp_s, period_s = seconds(self._clock.stamp_ns), self._limiter.period_s
        joined = self._path.joined_to(path, stamp_s - 2.0 * period_s)
        next_s = stamp_s + period_s
        before, after = self._path.state(next_s).position, joined.state(next_s).position
        change_rad, off_rad = _far(before, after), _far(after, self._sent.position)
        if change_rad > BLENDED_RAD and off_rad > max(self._leash_rad, _far(before, self._sent.position)):
            raise InvalidValueError(
                f"the trajectory is {off_rad:.3f} rad from the last setpoint; "
                f"the limit is {self._leash_rad:.3f} rad"
            )
        self._report_blend(change_rad)
        self._path = joined

    def _report_blend(self, off_rad: float) -> None:
        if off_rad > BLENDED_RAD:
            self._report("blended", f"catching up with a trajectory {off_rad:.4f} rad away")

    def forget(self) -> None:
        """Stop playing until a trajectory that starts at rest: somebody else may have moved the arm."""
        self._path = None

    @property
    def motion(self) -> JointMotion | None:
        """The motion at the newest setpoint, or None before the first one."""
        return self._sent

    @property
    def due_s(self) -> float:
        """When the newest setpoint is due: evenly spaced, whatever the jitter of the calls of ``sample``."""
        return seconds(self._clock.stamp_ns)

    def remaining_s(self, now_s: float) -> float:
        """Return how long the setpoints will still move at most, seconds."""
        return 0.0 if self._path is None else max(0.0, self._path.end_s - now_s)

    def sample(self, now_s: float) -> Float | None:
        """Return the setpoint (J,), rad, at ``now_s``, or None if there is nothing to send."""
        sent = self._sent
        if sent is None or (self._path is None and sent.is_at_rest):
            return None
        tick = self._clock.tick(nanoseconds(now_s))
        if tick is Tick.EARLY:
            return None
        gap_s, self._sent_s = now_s - self._sent_s, now_s
        if tick is Tick.BACK:
            self._drop("clock", "the clock went back")
        if not 0.0 <= gap_s <= LONGEST_GAP_S + 1e-6 and not sent.is_at_rest:
            self._report("held", f"the driver got no setpoint for {gap_s:.3f} s and held the last one")
            self._sent = sent = JointMotion.at_rest(sent.position)
        if self._path is not None and now_s - self._path.end_s > REPEAT_S and sent.is_at_rest:
            self._path = None
            return None
        self._before = sent
        if self._announced:  # the first setpoint is where the arm rests
            sent = self._step(sent, tick)
        self._announced, self._sent = True, sent
        return sent.position

    def withdraw(self) -> Float:
        """Discard the newest setpoint, which was not sent; return the previous one (J,), to hold."""
        assert self._before is not None
        self._sent = self._before = JointMotion.at_rest(self._before.position)
        return self._sent.position

    def _step(self, sent: JointMotion, tick: Tick) -> JointMotion:
        if self._path is None:
            return self._limiter.stop(sent)
        end_s = seconds(self._clock.stamp_ns)
        begin_s = end_s - self._clock.elapsed_s if tick is Tick.PERIOD else end_s
        motion = self._limiter.follow(sent, self._path, begin_s, end_s)
        off_rad = _far(self._path.state(end_s).position, motion.position)
        if off_rad > self._leash_rad:
            self._drop("out of reach", f"the setpoints lag {off_rad:.3f} rad behind their trajectory")
        return motion

    def _drop(self, reason: str, text: str) -> None:
        if self._path is not None:
            self._report(reason, text)
        self._path = None


def _far(one: Float, other: Float) -> float:
    return float(np.abs(one - other).max())


def _path(
    joints: Sequence[str],
    names: Sequence[str],
    times_s: ArrayLike,
    positions: Sequence[ArrayLike],
    velocities: Sequence[ArrayLike],
    start_s: float,
) -> JointPath:
    if sorted(names) != sorted(joints):
        raise InvalidValueError(f"the trajectory is for joints {list(names)}; this arm has {list(joints)}")
    order = [list(names).index(joint) for joint in joints]
    times = float_array("trajectory times", times_s, (None,))
    if not len(times) or np.any(np.diff(times) <= 0.0):
        raise InvalidValueError(f"trajectory times {np.round(times, 4).tolist()} must increase")
    if not len(positions) == len(velocities) == len(times):
        raise InvalidValueError(
            f"got {len(times)} times, {len(positions)} positions and {len(velocities)} velocities"
        )
    shape = (len(order),)
    return JointPath(
        [
            Waypoint(
                start_s + float(time),
                float_array("trajectory positions", row, shape)[order],
                float_array("trajectory velocities", speed, shape)[order] if np.size(speed) else None,
            )
            for time, row, speed in zip(times, positions, velocities, strict=True)
        ]
    )
