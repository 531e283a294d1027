"""Trajectories are followed by the rules of ros2_control's joint trajectory controller."""

import numpy as np
import pytest

from openvla_ros.errors import InvalidValueError
from openvla_ros.robot.trajectory_follower import TrajectoryFollower


@pytest.fixture
def follower():
    return TrajectoryFollower(["a", "b"], [0.0, 1.0])


def test_it_holds_until_told_otherwise(follower):
    assert np.array_equal(follower.sample(-1.0), [0.0, 1.0])
    assert np.array_equal(follower.sample(100.0), [0.0, 1.0])


def test_positions_run_straight_from_what_is_commanded_and_end_held(follower):
    follower.follow(["a", "b"], [1.0, 2.0], [[1.0, 1.0], [1.0, 3.0]], None, start_s=10.0, now_s=10.0)
    assert np.allclose(follower.sample(10.5), [0.5, 1.0])
    assert np.allclose(follower.sample(11.5), [1.0, 2.0])
    assert np.allclose(follower.sample(99.0), [1.0, 3.0])


def test_joints_come_in_any_order(follower):
    follower.follow(["b", "a"], [1.0], [[3.0, 5.0]], None, 0.0, 0.0)
    assert np.allclose(follower.sample(1.0), [5.0, 3.0])


def test_velocities_make_cubics_without_a_jump_in_speed(follower):
    follower.follow(["a", "b"], [1.0, 2.0], [[1.0, 1.0], [2.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]], 0.0, 0.0)
    times = np.linspace(0.0, 2.0, 2001)
    speeds = np.diff([follower.sample(t) for t in times], axis=0) / 1e-3
    assert speeds[0, 0] == pytest.approx(0.0, abs=0.01)
    assert speeds[1000, 0] == pytest.approx(1.0, abs=0.01)
    assert np.abs(np.diff(speeds, axis=0)).max() < 0.02


def test_a_new_trajectory_starts_from_where_the_old_one_is(follower):
    follower.follow(["a", "b"], [1.0], [[1.0, 1.0]], None, 0.0, 0.0)
    follower.follow(["a", "b"], [1.0], [[0.0, 1.0]], None, 0.5, 0.5)
    assert np.allclose(follower.sample(0.5), [0.5, 1.0])
    assert np.allclose(follower.sample(1.0), [0.25, 1.0])


def test_points_of_the_past_are_passed_over(follower):
    follower.follow(["a", "b"], [0.1, 1.0], [[9.0, 9.0], [1.0, 1.0]], None, start_s=0.0, now_s=0.5)
    samples = np.array([follower.sample(t) for t in np.linspace(0.5, 2.0, 50)])
    assert samples[:, 0].max() <= 1.0
    follower.follow(["a", "b"], [0.1], [[4.0, 4.0]], None, start_s=0.0, now_s=3.0)
    assert np.allclose(follower.sample(3.0), [4.0, 4.0])


@pytest.mark.parametrize(
    ("names", "times", "positions", "words"),
    [
        (["a"], [1.0], [[1.0]], "this controller moves"),
        (["a", "c"], [1.0], [[1.0, 1.0]], "this controller moves"),
        (["a", "b"], [1.0, 1.0], [[1.0, 1.0]] * 2, "must increase"),
        (["a", "b"], [], np.zeros((0, 2)), "must increase"),
        (["a", "b"], [1.0], [[1.0, np.nan]], "must be finite"),
        (["a", "b"], [1.0], [[1.0, 1.0]] * 2, "has shape"),
    ],
)
def test_what_cannot_be_followed_changes_nothing(follower, names, times, positions, words):
    with pytest.raises(InvalidValueError, match=words):
        follower.follow(names, times, positions, None, 0.0, 0.0)
    assert np.array_equal(follower.sample(5.0), [0.0, 1.0])
