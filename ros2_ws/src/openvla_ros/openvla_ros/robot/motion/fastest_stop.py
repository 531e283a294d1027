"""The fastest stop of one joint within its acceleration and jerk: its phases, how far it leads, its course.

From velocity v and acceleration a it has at most three phases of constant jerk. In plain floats: numpy costs
more for one joint.
"""

from __future__ import annotations

import math

State = tuple[float, float, float]  # position, velocity, acceleration of one joint


def stop_phases(v: float, a: float, acceleration: float, jerk: float) -> tuple[float, float, float, float]:
    """Return the fastest stop from velocity ``v`` and acceleration ``a``: (jerk of phase 1, t1, t2, t3).

    The phases have jerk j, 0 and -j, and end with velocity and acceleration 0.
    """
    # Comparisons instead of min and max: the controller computes this most often of all.
    if v + a * abs(a) / (2.0 * jerk) >= 0.0:
        first = -jerk
    else:
        v, a, first = -v, -a, jerk
    square, hold = jerk * v + 0.5 * a * a, 0.0
    peak = math.sqrt(square) if square > 0.0 else 0.0
    if peak > acceleration:
        peak = acceleration
        hold = (v + (0.5 * a * a - peak * peak) / jerk) / peak
    rise = (a + peak) / jerk
    return first, rise if rise > 0.0 else 0.0, hold if hold > 0.0 else 0.0, peak / jerk


def stop_way(v: float, a: float, acceleration: float, jerk: float) -> float:
    """Return the displacement of the fastest stop from (``v``, ``a``): the last one of ``stop_extent``."""
    j, t1, t2, t3 = stop_phases(v, a, acceleration, jerk)
    x = ((j * t1 / 6.0 + 0.5 * a) * t1 + v) * t1
    v1 = (0.5 * j * t1 + a) * t1 + v
    a1 = j * t1 + a
    x += (0.5 * a1 * t2 + v1) * t2
    v2 = a1 * t2 + v1
    return x + ((-j * t3 / 6.0 + 0.5 * a1) * t3 + v2) * t3


def stop_extent(v: float, a: float, acceleration: float, jerk: float) -> State:
    """Return (lowest, highest, last) displacement of the fastest stop from (``v``, ``a``)."""
    j, t1, t2, t3 = stop_phases(v, a, acceleration, jerk)
    x = ((j * t1 / 6.0 + 0.5 * a) * t1 + v) * t1
    v1 = (0.5 * j * t1 + a) * t1 + v
    a1 = j * t1 + a
    x += (0.5 * a1 * t2 + v1) * t2
    v2 = a1 * t2 + v1
    x += ((-j * t3 / 6.0 + 0.5 * a1) * t3 + v2) * t3
    lowest, highest = min(0.0, x), max(0.0, x)
    if v * j > 0.0:  # it first moves the other way: the turning point lies within phase 1
        root = math.sqrt(max(0.0, a * a - 2.0 * j * v))
        turn = min(t for t in ((-a - root) / j, (-a + root) / j) if t >= 0.0)
        at_turn = ((j * turn / 6.0 + 0.5 * a) * turn + v) * turn
        lowest, highest = min(lowest, at_turn), max(highest, at_turn)
    return lowest, highest, x


def stop_state(p: float, v: float, a: float, acceleration: float, jerk: float, t: float) -> State:
    """Return the state ``t`` seconds along the fastest stop from (``p``, ``v``, ``a``)."""
    return state_along(p, v, a, stop_phases(v, a, acceleration, jerk), t)


def state_along(p: float, v: float, a: float, phases: tuple[float, float, float, float], t: float) -> State:
    """Return the state ``t`` seconds along a stop whose ``stop_phases`` are known."""
    j, t1, t2, t3 = phases
    for phase_jerk, duration in ((j, t1), (0.0, t2), (-j, t3)):
        part = min(t, duration)
        p += ((phase_jerk * part / 6.0 + 0.5 * a) * part + v) * part
        v += (0.5 * phase_jerk * part + a) * part
        a += phase_jerk * part
        t -= part
        if t <= 0.0:
            return p, v, a
    return p, 0.0, 0.0


def moments_along(
    p: float, v: float, a: float, phases: tuple[float, float, float, float], times: list[float]
) -> list[tuple[float, float]]:
    """Return the position and velocity of ``state_along`` at each of ``times``, bit for bit.

    The ends of the phases are computed once for all of them.
    """
    j, t1, t2, t3 = phases
    p1, v1, a1 = p + ((j * t1 / 6.0 + 0.5 * a) * t1 + v) * t1, v + (0.5 * j * t1 + a) * t1, a + j * t1
    p2, v2 = p1 + (0.5 * a1 * t2 + v1) * t2, v1 + a1 * t2
    end = p2 + ((-j * t3 / 6.0 + 0.5 * a1) * t3 + v2) * t3
    found = []
    for t in times:
        if t <= t1:
            found.append((p + ((j * t / 6.0 + 0.5 * a) * t + v) * t, v + (0.5 * j * t + a) * t))
            continue
        t -= t1
        if t <= t2:
            found.append((p1 + (0.5 * a1 * t + v1) * t, v1 + a1 * t))
            continue
        t -= t2
        if t <= t3:
            found.append((p2 + ((-j * t / 6.0 + 0.5 * a1) * t + v2) * t, v2 + (0.5 * -j * t + a1) * t))
        else:
            found.append((end, 0.0))
    return found
