"""Joint motion that can always stop: position, velocity, acceleration and jerk limits at every tick.

Each joint is a triple integrator driven by its jerk. From a state (v, a) the fastest stop has a
closed form of at most three phases of constant jerk. Call a state safe if that stop keeps the
velocity, acceleration and position limits throughout. Then:

- a joint at rest within its limits is safe;
- continuing along the stop leads to a safe state, since its stop is the rest of the same one;
- any other step is taken only if the state that it leads to is safe.

So the limits hold at every tick whatever the target, except NaN, which ``MotionLimiter.follow`` refuses.
The samples lie on one continuous motion within the limits, hence their first, second and third finite
differences stay within the velocity, acceleration and jerk limits as well.

How a moving target is followed: the joint's stop, begun one tick later, should end where the
target's own stop would, which may be more sudden than the joint's. So a joint that lags behind
catches up without overshooting, even if the target stops in a way that the joint cannot follow. A
linear term softens the approach near the target, where time-optimal motion would chatter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import LimitsProfile
from openvla_ros.robot.motion.fastest_stop import (
    State,
    moments_along,
    stop_extent,
    stop_phases,
    stop_state,
    stop_way,
)
from openvla_ros.values.arrays import Float, float_array

# Time constant of the linear approach near the target, in ticks. Below two the approach chatters.
SOFT_TICKS = 3.0
# Limits are kept with this relative reserve, far above rounding and far below anything that matters.
RESERVE = 1e-9
BISECTIONS = 12
# A target is expected to stop within this fraction of its estimated shortest stopping distance.
TARGET_STOP_SHARE = 0.8


@dataclass(frozen=True, eq=False)
class JointMotion:
    """Commanded joint positions, velocities and accelerations; (J,) rad, rad/s, rad/s²."""

    position: Float
    velocity: Float
    acceleration: Float

    @classmethod
    def at_rest(cls, position: Float) -> JointMotion:
        """Return the motion of joints at rest at ``position`` (J,)."""
        return cls(np.array(position, dtype=np.float64), np.zeros(len(position)), np.zeros(len(position)))

    @property
    def is_at_rest(self) -> bool:
        """Whether no joint moves (slower than 1e-6 rad/s)."""
        # In plain numbers, as a joint's arithmetic below: numpy costs more on arrays this small.
        return all(abs(v) < 1e-6 for v in self.velocity.tolist()) and all(
            abs(a) < 1e-4 for a in self.acceleration.tolist()
        )


@dataclass(frozen=True, eq=False)
class MotionLimits:
    """Limits of J joints; rad, rad/s, rad/s², rad/s³."""

    lower: Float
    upper: Float
    velocity: Float
    acceleration: Float
    jerk: Float

    @classmethod
    def from_profile(cls, limits: LimitsProfile) -> MotionLimits:
        """Return the joint limits of a robot profile."""
        count = len(limits.joint_lower)
        return cls(
            float_array("joint_lower", limits.joint_lower, (count,)),
            float_array("joint_upper", limits.joint_upper, (count,)),
            float_array("joint_velocity", limits.joint_velocity, (count,)),
            float_array("joint_acceleration", limits.joint_acceleration, (count,)),
            float_array("joint_jerk", limits.joint_jerk, (count,)),
        )

    def scaled(self, share: float) -> MotionLimits:
        """Return the same position limits with velocity, acceleration and jerk times ``share``."""
        return MotionLimits(
            self.lower, self.upper, self.velocity * share, self.acceleration * share, self.jerk * share
        )


class _Joint:
    """The limits of one joint and the rules above, in plain floats: arrays this small cost more."""

    def __init__(
        self,
        lower: float,
        upper: float,
        v: float,
        a: float,
        j: float,
        period: float,
        target_stop_s: float | None,
    ) -> None:
        self.lower, self.upper = lower + RESERVE, upper - RESERVE
        self.v, self.a, self.j = v * (1 - RESERVE), a * (1 - RESERVE), j * (1 - RESERVE)
        self.target_stop_s = target_stop_s
        soft = SOFT_TICKS * period
        self.soft_v, self.soft_a = 2.0 * soft, soft * soft

    def step(self, p: float, v: float, a: float, j: float, dt: float) -> State:
        return p + ((j * dt / 6.0 + 0.5 * a) * dt + v) * dt, v + (0.5 * j * dt + a) * dt, a + j * dt

    def is_safe(self, now: State, j: float, after: State) -> bool:
        """Whether a step of constant jerk from ``now`` to ``after`` keeps the limits and can be stopped."""
        if now[2] * after[2] < 0.0 and abs(now[1] - now[2] * now[2] / (2.0 * j)) > self.v:
            return False  # the velocity peaks within the step
        return self.can_stop(now, after)

    def can_stop(self, now: State, after: State) -> bool:
        """Whether ``after``, a step from ``now``, is within the limits and its stop as well."""
        p, v, a = after
        if abs(a) > self.a or abs(v) > self.v or abs(v + a * abs(a) / (2.0 * self.j)) > self.v:
            return False
        lowest, highest, _ = stop_extent(v, a, self.a, self.j)
        lower, upper = self.lower, self.upper
        if now[0] < lower or now[0] > upper:  # found outside: never farther out than its own stop leads
            low, high, _ = stop_extent(now[1], now[2], self.a, self.j)
            lower, upper = min(lower, now[0] + low), max(upper, now[0] + high)
        return lower <= p + lowest and p + highest <= upper

    def stop(self, p: float, v: float, a: float, t: float) -> State:
        return stop_state(p, v, a, self.a, self.j, t)

    def follow(self, now: State, target: State, dt: float) -> State:
        p, v, a = now
        wanted = self._wanted_jerk(now, target, dt)
        after = self.step(p, v, a, wanted, dt)
        if self.is_safe(now, wanted, after):
            return after
        stop = self.stop(p, v, a, dt)
        safe, safe_after = (stop[2] - a) / dt, stop
        for _ in range(BISECTIONS):
            middle = 0.5 * (wanted + safe)
            after = self.step(p, v, a, middle, dt)
            if self.is_safe(now, middle, after):
                safe, safe_after = middle, after
            else:
                wanted = middle
        return safe_after

    def reach(self, now: State, target: State, dt: float) -> State | None:
        """Return the state after a step of three parts of constant jerk to ``target``, or ``None``."""
        (p, v, a), x = now, dt / 3.0
        change = (target[2] - a) / x
        gain = (target[1] - v - a * dt) / x**2
        way = (target[0] - p - (v + 0.5 * a * dt) * dt) / x**3
        first, second = way - gain + change / 3.0, -2.0 * way + 3.0 * gain - 7.0 / 6.0 * change
        jerks = first, second, change - first - second
        if max(map(abs, jerks)) > self.j:
            return None
        state = now
        for j in jerks:
            before, state = state, self.step(*state, j, x)
            if not self.is_safe(before, j, state):
                return None
        return state

    def _wanted_jerk(self, state: State, target: State, dt: float) -> float:
        """Return the jerk of the next tick after which both stops end at the same place."""
        goal = target[0] + self._target_stop(target[1], target[2])
        goal += self.soft_v * target[1] + self.soft_a * target[2]
        low, high, reach = -self.j, self.j, self._reach
        miss_low = reach(state, low, dt) - goal
        if miss_low >= 0.0:
            return low
        miss_high = reach(state, high, dt) - goal
        if miss_high <= 0.0:
            return high
        # The reach grows with the jerk: false position (Illinois), which needs five or six rounds.
        j, side = 0.0, 0
        for _ in range(30):
            j = (low * miss_high - high * miss_low) / (miss_high - miss_low)
            miss = reach(state, j, dt) - goal
            if abs(miss) < 1e-12 or high - low < 1e-9 * self.j:
                break
            if miss > 0.0:
                high, miss_high = j, miss
                miss_low *= 0.5 if side == 1 else 1.0
                side = 1
            else:
                low, miss_low = j, miss
                miss_high *= 0.5 if side == -1 else 1.0
                side = -1
        return j

    def _target_stop(self, v: float, a: float) -> float:
        """A lower estimate of how far a target moving with ``v`` and ``a`` travels before it stops."""
        limit = self.a
        fastest = stop_way(v, min(max(a, -limit), limit), limit, self.j)
        if self.target_stop_s is None:
            return fastest
        shortest = min(abs(fastest), 0.5 * abs(v) * self.target_stop_s)
        if v * a < 0.0:  # it is already slowing down
            shortest = min(shortest, 0.5 * v * v / abs(a))
        return math.copysign(TARGET_STOP_SHARE * shortest, v) if fastest * v >= 0.0 else fastest

    def _reach(self, state: State, j: float, dt: float) -> float:
        """Where the fastest stop after a step ends, plus the linear terms that soften the approach.

        ``step`` and ``stop_way`` written out, operation for operation: the controller computes this most
        often of all, and four calls cost as much as their arithmetic. A test compares the two bit for bit.
        """
        p, v, a = state
        p += ((j * dt / 6.0 + 0.5 * a) * dt + v) * dt
        v += (0.5 * j * dt + a) * dt
        a += j * dt
        # The phases of the stop, as in ``stop_phases``.
        jerk, most, peak, hold = self.j, self.a, 0.0, 0.0
        if v + a * abs(a) / (2.0 * jerk) >= 0.0:
            first, w, b = -jerk, v, a
        else:
            first, w, b = jerk, -v, -a
        square = jerk * w + 0.5 * b * b
        if square > 0.0:
            peak = math.sqrt(square)
            if peak > most:
                peak = most
                hold = (w + (0.5 * b * b - peak * peak) / jerk) / peak
        rise = (b + peak) / jerk
        t1, t2, t3 = rise if rise > 0.0 else 0.0, hold if hold > 0.0 else 0.0, peak / jerk
        # The way along them, as in ``stop_way``.
        x = ((first * t1 / 6.0 + 0.5 * a) * t1 + v) * t1
        v1 = (0.5 * first * t1 + a) * t1 + v
        a1 = first * t1 + a
        x += (0.5 * a1 * t2 + v1) * t2
        v2 = a1 * t2 + v1
        x += ((-first * t3 / 6.0 + 0.5 * a1) * t3 + v2) * t3
        return p + x + self.soft_v * v + self.soft_a * a


class MotionLimiter:
    """Moves J commanded joints tick by tick within their limits.

    ``target_stop_s`` is how suddenly the followed targets may stop, seconds; ``None`` for targets that move
    within the same limits.
    """

    def __init__(self, limits: MotionLimits, period_s: float, target_stop_s: float | None) -> None:
        if not period_s > 0.0:
            raise InvalidValueError(f"the period is {period_s} s; it must be above 0")
        self.limits = limits
        self.period_s = period_s
        self._joints = [
            _Joint(
                float(limits.lower[i]),
                float(limits.upper[i]),
                float(limits.velocity[i]),
                float(limits.acceleration[i]),
                float(limits.jerk[i]),
                period_s,
                target_stop_s,
            )
            for i in range(len(limits.lower))
        ]

    def follow(self, motion: JointMotion, target: JointMotion, step_s: float | None = None) -> JointMotion:
        """Return the motion one tick later, on the way to ``target`` (its state one tick from now).

        If ``step_s`` is given, the tick lasts that long; it may be slightly longer or shorter than the
        period: each step stays within the limits by itself. Raises ``InvalidValueError`` if the target is
        not finite.
        """
        goals = _states(target)
        _check_finite(target, goals)
        dt = self.period_s if step_s is None else step_s
        return _motion(
            joint.follow(state, goal, dt)
            for joint, state, goal in zip(self._joints, _states(motion), goals, strict=True)
        )

    def track(self, motion: JointMotion, target: JointMotion, along: NDArray[np.bool_]) -> JointMotion:
        """Return the motion one period later: ``target`` itself for every joint that can reach it by then.

        ``along`` (J,) marks the joints that are known to get there within their rate limits; the others may
        try with three phases of constant jerk. So a target that moves within the limits is followed exactly,
        without the lag of ``follow``, which is used only if it is out of reach. Raises as ``follow``.
        """
        goals = _states(target)
        _check_finite(target, goals)
        dt = self.period_s
        parts = zip(self._joints, _states(motion), goals, along.tolist(), strict=True)
        return _motion(
            goal
            if known and joint.can_stop(state, goal)
            else joint.reach(state, goal, dt) or joint.follow(state, goal, dt)
            for joint, state, goal, known in parts
        )

    def stop(self, motion: JointMotion, step_s: float | None = None) -> JointMotion:
        """Return the motion one tick later on the fastest stop; ``step_s`` as in ``follow``."""
        return self.stop_after(motion, self.period_s if step_s is None else step_s)

    def stop_after(self, motion: JointMotion, seconds: float) -> JointMotion:
        """Return the motion ``seconds`` (≥ 0) later on the fastest stop."""
        pairs = zip(self._joints, _states(motion), strict=True)
        return _motion(joint.stop(*state, seconds) for joint, state in pairs)

    def stop_samples(self, motion: JointMotion, count: int) -> Float:
        """Return joint positions (``count``, J) along the fastest stop, the last one at rest."""
        states = _states(motion)
        phases = [
            stop_phases(v, a, joint.a, joint.j) for joint, (_, v, a) in zip(self._joints, states, strict=True)
        ]
        longest = max(sum(durations) for _, *durations in phases)
        times = [longest * k / count for k in range(1, count + 1)]
        stops = zip(states, phases, strict=True)
        moments = [moments_along(*state, stop, times) for state, stop in stops]  # J times ``count``
        return np.array([[p for p, _ in row] for row in zip(*moments, strict=True)])


def _check_finite(target: JointMotion, states: list[State]) -> None:
    if not all(map(math.isfinite, itertools.chain.from_iterable(states))):
        raise InvalidValueError(f"the joint target {target} must be finite")


def _states(motion: JointMotion) -> list[State]:
    return list(
        zip(motion.position.tolist(), motion.velocity.tolist(), motion.acceleration.tolist(), strict=True)
    )


def _motion(states: Iterable[State]) -> JointMotion:
    return JointMotion(*map(np.array, zip(*states, strict=True)))
