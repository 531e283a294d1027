"""Joint paths through waypoints: the polynomials between them, and whether they keep the limits."""

import numpy as np
import pytest

from openvla_ros.profile import load_profile
from openvla_ros.robot.motion.joint_path import JointPath, Segment, Waypoint
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimiter, MotionLimits
from openvla_ros.robot.motion.stop_trajectory import trailing_stop

LIMITS = MotionLimits.from_profile(load_profile("sim_widowx").limits)
PERIOD_S = 0.01


def at(time_s: float, *rows: float | None) -> Waypoint:
    return Waypoint(time_s, *(None if row is None else np.array([row]) for row in rows))


def test_it_holds_before_and_after():
    path = JointPath([at(1.0, 3.0), at(2.0, 5.0)])
    assert path.state(-9.0).position == [3.0]
    assert path.state(9.0).position == [5.0]
    assert path.state(9.0).is_at_rest


@pytest.mark.parametrize(("velocity", "acceleration"), [(None, None), (0.7, None), (0.7, -2.0)])
def test_segments_meet_what_their_ends_say(velocity, acceleration):
    segment = Segment(at(1.0, 3.0, velocity, acceleration), at(1.5, 3.3, velocity, acceleration))
    for time_s, position in ((1.0, 3.0), (1.5, 3.3)):
        state = segment.state(time_s)
        assert state.position == pytest.approx([position])
        if velocity is not None:
            assert state.velocity == pytest.approx([velocity])
        if acceleration is not None:
            assert state.acceleration == pytest.approx([acceleration])


def test_speed_and_acceleration_are_the_derivatives():
    segment = Segment(at(0.0, 0.0, 1.0, 2.0), at(0.5, 0.2, -1.0, 3.0))
    before, here, after = (segment.state(0.3 + h) for h in (-1e-5, 0.0, 1e-5))
    assert (after.position - before.position) / 2e-5 == pytest.approx(here.velocity, rel=1e-7)
    assert (after.velocity - before.velocity) / 2e-5 == pytest.approx(here.acceleration, rel=1e-6)


def test_one_missing_end_makes_a_line():
    segment = Segment(at(0.0, 0.0, 1.0), at(0.5, 1.0))
    assert segment.state(0.25).position == pytest.approx([0.5])


@pytest.mark.parametrize("seed", range(5))
def test_a_stop_is_played_within_the_limits_and_exactly(seed):
    rng = np.random.default_rng(seed)
    limiter = MotionLimiter(LIMITS, PERIOD_S, 0.1)
    motion = JointMotion.at_rest(rng.uniform(0.5 * LIMITS.lower, 0.5 * LIMITS.upper))
    for _ in range(int(rng.integers(5, 60))):
        motion = limiter.follow(motion, JointMotion.at_rest(np.sign(motion.position) * 3.0))
    stop = trailing_stop(motion, LIMITS)
    path = JointPath(
        [Waypoint(*row) for row in zip(stop.times_s, stop.positions, stop.velocities, strict=True)]
    )
    times = np.linspace(0.0, path.end_s + 0.05, 400)
    right = np.array([limiter.stop_after(motion, t).position for t in times])
    np.testing.assert_allclose([path.state(t).position for t in times], right, atol=1e-8)
    wide = MotionLimits(LIMITS.lower, LIMITS.upper, *(1.00001 * np.array(r) for r in
                        (LIMITS.velocity, LIMITS.acceleration, LIMITS.jerk)))  # fmt: skip
    assert all(path.keeps(wide, t, t + PERIOD_S).all() for t in times[:-1])


def test_what_breaks_a_limit_or_jumps_is_not_kept():
    wide = MotionLimits(*(np.array([x]) for x in (-9.0, 9.0, 1.0, 5.0, 80.0)))
    good = JointPath([at(0.0, 0.0, 0.9), at(0.1, 0.09, 0.9), at(0.2, 0.18, 0.9)])
    assert good.keeps(wide, 0.0, 0.15) == [True]
    for velocity, way in ((1.1, 0.11), (0.5, 0.09), (0.9, 0.0905)):
        path = JointPath([at(0.0, 0.0, 0.9), at(0.1, way, velocity), at(0.2, 2 * way, velocity)])
        assert path.keeps(wide, 0.0, 0.15) == [False]
    # The speed peaks between two points that are within the limit.
    assert JointPath([at(0.0, 0.0, 0.95), at(0.2, 0.215, 0.95)]).keeps(wide, 0.0, 0.2) == [False]


def test_a_later_path_takes_over_where_it_begins():
    joined = JointPath([at(t, t) for t in (0.0, 1.0, 2.0, 3.0)]).joined_to(
        JointPath([at(2.0, 9.0), at(4.0, 9.0)]), since_s=1.5
    )
    assert [w.time_s for w in joined.waypoints] == [1.0, 2.0, 4.0]
    assert joined.state(1.5).position == pytest.approx([5.0])
