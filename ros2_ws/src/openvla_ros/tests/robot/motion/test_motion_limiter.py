"""Whatever is asked for, commanded joints keep their limits and can always stop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.plain_formulae import reach, stop_samples

from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import load_profile
from openvla_ros.robot.motion.fastest_stop import (
    moments_along,
    state_along,
    stop_extent,
    stop_phases,
    stop_state,
    stop_way,
)
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimiter, MotionLimits, _states

PERIOD_S = 0.01
LIMITS = MotionLimits.from_profile(load_profile("sim_widowx").limits)
LIMITER = MotionLimiter(LIMITS, PERIOD_S, target_stop_s=0.2)


def derivatives(positions: np.ndarray) -> list[np.ndarray]:
    return [np.diff(positions, n=k, axis=0) / PERIOD_S**k for k in (1, 2, 3)]


def assert_within_limits(positions: np.ndarray) -> None:
    assert np.all(positions >= LIMITS.lower)
    assert np.all(positions <= LIMITS.upper)
    for rate, limit in zip(
        derivatives(positions), (LIMITS.velocity, LIMITS.acceleration, LIMITS.jerk), strict=True
    ):
        assert np.all(np.abs(rate) <= limit * (1 + 1e-6))


def targets(rng: np.random.Generator, kind: str, count: int, start: np.ndarray) -> list[JointMotion]:
    shape = (count, len(start))
    match kind:
        case "noise":
            positions = rng.uniform(LIMITS.lower - 1, LIMITS.upper + 1, shape)
        case "steps":
            positions = np.repeat(
                rng.uniform(LIMITS.lower - 1, LIMITS.upper + 1, (count // 20, shape[1])), 20, 0
            )
        case "edge":
            positions = np.tile(np.where(rng.random(shape[1]) < 0.5, LIMITS.lower, LIMITS.upper), (count, 1))
            positions += rng.normal(0, 0.01, shape)
        case "huge":
            positions = rng.normal(0, 1e9, shape)
        case "walk":
            positions = start + np.cumsum(rng.normal(0, 0.05, shape), axis=0)
    rates = rng.normal(0, 10.0, (2, *shape)) * (rng.random() < 0.7)
    return [JointMotion(*parts) for parts in zip(positions, *rates, strict=True)]


@given(st.integers(0, 2**32 - 1), st.sampled_from(["noise", "steps", "edge", "huge", "walk"]))
@settings(max_examples=40, deadline=None)
def test_the_limits_hold_for_any_target_and_the_joints_can_always_stop(seed, kind):
    rng = np.random.default_rng(seed)
    start = rng.uniform(LIMITS.lower, LIMITS.upper)
    motion, positions = JointMotion.at_rest(start), [start]
    for target in targets(rng, kind, 120, start):
        motion = LIMITER.follow(motion, target)
        positions.append(motion.position)
    for _ in range(150):
        motion = LIMITER.stop(motion)
        positions.append(motion.position)
    assert motion.is_at_rest
    assert_within_limits(np.array(positions))


@given(st.floats(-2, 2), st.floats(-5, 5))
@settings(max_examples=200, deadline=None)
def test_the_stop_ends_at_rest_where_its_extent_says(v, a):
    acceleration, jerk = 5.0, 80.0
    _, *durations = stop_phases(v, a, acceleration, jerk)
    assert all(t >= 0 for t in durations)
    times = np.linspace(0, sum(durations), 400)
    states = np.array([stop_state(0.0, v, a, acceleration, jerk, t) for t in times])
    lowest, highest, last = stop_extent(v, a, acceleration, jerk)
    assert stop_way(v, a, acceleration, jerk) == last
    np.testing.assert_allclose(states[-1], [last, 0, 0], atol=1e-9)
    assert states[:, 0].min() >= lowest - 1e-9
    assert states[:, 0].max() <= highest + 1e-9
    np.testing.assert_allclose([states[:, 0].min(), states[:, 0].max()], [lowest, highest], atol=1e-3)
    assert np.abs(states[:, 2]).max() <= acceleration + 1e-9
    # The velocity is the derivative of the position.
    if times[-1] > 0.01:
        np.testing.assert_allclose(np.gradient(states[:, 0], times)[1:-1], states[1:-1, 1], atol=2e-2)


@pytest.mark.parametrize("distance", [1e-4, 0.01, 0.3, 1.2])
def test_a_resting_target_is_reached_without_overshoot(distance):
    start = np.zeros(6)
    motion, goal = JointMotion.at_rest(start), JointMotion.at_rest(start + distance)
    positions = []
    for _ in range(250):
        motion = LIMITER.follow(motion, goal)
        positions.append(motion.position)
    assert np.max(positions) <= distance + 1e-9
    np.testing.assert_allclose(positions[-1], distance, atol=1e-6)


def test_a_slowly_moving_target_is_followed_closely():
    t = np.arange(600) * PERIOD_S
    path = 0.1 * (1 - np.cos(2 * np.pi * 0.4 * t))
    velocity, acceleration = np.gradient(path, t), np.gradient(np.gradient(path, t), t)
    motion, error = JointMotion.at_rest(np.zeros(6)), []
    for row in zip(path, velocity, acceleration, strict=True):
        motion = LIMITER.follow(motion, JointMotion(*(np.full(6, x) for x in row)))
        error.append(np.abs(motion.position - row[0]).max())
    assert max(error) < 0.012


def test_the_stop_samples_lie_on_the_stop():
    motion = JointMotion.at_rest(np.zeros(6))
    for _ in range(40):
        motion = LIMITER.follow(motion, JointMotion.at_rest(np.ones(6)))
    samples = LIMITER.stop_samples(motion, 3)
    stopped = motion
    for _ in range(150):
        stopped = LIMITER.stop(stopped)
    np.testing.assert_allclose(samples[-1], stopped.position, atol=1e-9)
    assert np.all(np.diff(np.vstack([motion.position, samples]), axis=0) >= 0)


def test_a_joint_found_outside_its_limits_only_comes_back():
    outside = LIMITS.upper + 0.05
    motion, positions = JointMotion.at_rest(outside), [outside]
    for target in (LIMITS.upper + 1.0, LIMITS.upper - 0.2):
        for _ in range(150):
            motion = LIMITER.follow(motion, JointMotion.at_rest(target))
            positions.append(motion.position)
    assert np.all(np.array(positions) <= outside + 1e-9)
    np.testing.assert_allclose(motion.position, LIMITS.upper - 0.2, atol=1e-4)


def test_a_target_that_is_not_finite_is_refused():
    with pytest.raises(InvalidValueError, match="must be finite"):
        LIMITER.follow(JointMotion.at_rest(np.zeros(6)), JointMotion.at_rest(np.full(6, np.nan)))
    with pytest.raises(InvalidValueError, match=r"0\.0 s; it must be above 0"):
        MotionLimiter(LIMITS, 0.0, 0.2)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_what_is_written_out_for_speed_is_the_plain_arithmetic_bit_for_bit(seed):
    rng, count = np.random.default_rng(seed), len(LIMITS.lower)
    scale = 10.0 ** rng.uniform(-9, 0, (2, count))
    motion = JointMotion(
        rng.uniform(LIMITS.lower, LIMITS.upper),
        rng.uniform(-LIMITS.velocity, LIMITS.velocity) * scale[0] * (rng.random(count) < 0.9),
        rng.uniform(-LIMITS.acceleration, LIMITS.acceleration) * scale[1] * (rng.random(count) < 0.9),
    )
    for samples in (1, 4, 7):
        assert (
            LIMITER.stop_samples(motion, samples).tobytes()
            == stop_samples(LIMITER, motion, samples).tobytes()
        )
    for joint, state in zip(LIMITER._joints, _states(motion), strict=True):
        phases = stop_phases(*state[1:], joint.a, joint.j)
        ends = [0.0, *np.cumsum(phases[1:]).tolist()]
        times = [*ends, *(0.7 * end for end in ends), *rng.uniform(0.0, 2.0, 5).tolist()]
        assert moments_along(*state, phases, times) == [state_along(*state, phases, t)[:2] for t in times]
        for share in (-1.0, -0.3, 0.0, 1e-7, 1.0):
            assert joint._reach(state, share * joint.j, PERIOD_S) == reach(
                joint, state, share * joint.j, PERIOD_S
            )
