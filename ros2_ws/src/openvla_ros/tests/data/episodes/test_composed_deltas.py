"""Steps of a lower rate do what their parts did; nothing is composed over a gap."""

import dataclasses

import numpy as np
import pytest
from support.generated_episodes import make_episode

from openvla_ros.data.episodes.composed_deltas import INCOMPLETE, at_rate
from openvla_ros.data.episodes.converted_actions import ActionConversion, ActionConverter
from openvla_ros.errors import DatasetError
from openvla_ros.profile import load_profile
from openvla_ros.robot.kinematics.delta_actions import compose
from openvla_ros.values.geometry import Pose


def fast_episode(steps=20, rate_hz=30.0, **changes):
    episode = make_episode(3, steps)
    space = dataclasses.replace(episode.space, rate_hz=rate_hz, **changes)
    stamps = 10**9 + np.round(np.arange(steps) * 1e9 / rate_hz).astype(np.int64)
    return dataclasses.replace(episode, rate_hz=rate_hz, space=space, stamps_ns=stamps)


@pytest.mark.parametrize("frame", ["base", "tool"])
@pytest.mark.parametrize("rotation", ["euler_xyz", "rotation_vector"])
def test_the_target_ends_where_the_parts_end(frame, rotation):
    """The rule is `compose`'s own (widowx_envs: Trans(p) Delta Trans(-p) target), six times or once."""
    episode = fast_episode(frame=frame, rotation=rotation)
    slow = at_rate(episode, 5.0)
    assert (len(slow), slow.rate_hz, slow.space.rate_hz) == (3, 5.0, 5.0)
    assert slow.provenance[INCOMPLETE] == "2"
    start = Pose(episode.poses[0, :3, 3], episode.poses[0, :3, :3])
    by_parts = by_steps = start
    for index in range(3):
        for action in episode.actions[index * 6 : index * 6 + 6]:
            by_parts = compose(by_parts, action, episode.space)
        by_steps = compose(by_steps, slow.actions[index], slow.space)
        np.testing.assert_allclose(by_steps.matrix, by_parts.matrix, atol=1e-12)
        assert slow.actions[index, 6] == episode.actions[index * 6 + 5, 6]
        assert slow.intervention[index] == episode.intervention[index * 6 : index * 6 + 6].any()
        np.testing.assert_array_equal(slow.images["wrist"][index], episode.images["wrist"][index * 6])
        assert slow.stamps_ns[index] == episode.stamps_ns[index * 6]


def test_no_step_spans_a_gap():
    episode = fast_episode(20)
    kept = episode.take(np.r_[0:8, 12:20])  # 8 and 8 consecutive steps
    slow = at_rate(kept, 5.0)
    assert list(slow.stamps_ns) == [episode.stamps_ns[0], episode.stamps_ns[12]]
    assert slow.provenance[INCOMPLETE] == "4"


@pytest.mark.parametrize("rate_hz", [7.0, 60.0, 45.0])
def test_a_rate_that_is_no_whole_part_is_refused_with_both(rate_hz):
    with pytest.raises(DatasetError, match=rf"recorded at 30 Hz; {rate_hz:g} Hz cannot be composed"):
        at_rate(fast_episode(), rate_hz)


def test_the_same_rate_changes_nothing_and_too_few_steps_are_refused():
    episode = fast_episode(5)
    assert at_rate(episode, 30.0) is episode
    with pytest.raises(DatasetError, match="no 6 consecutive steps"):
        at_rate(episode, 5.0)


def test_measured_deltas_never_span_a_gap():
    episode = fast_episode(10).take(np.r_[0:4, 7:10])
    measured = episode.with_measured_actions()
    assert len(measured) == 5  # neither the last step nor the one before the gap
    with pytest.raises(ValueError, match="no two consecutive steps"):
        fast_episode(10).take(np.array([0, 5])).with_measured_actions()


@pytest.mark.parametrize("kind", ["joint_position", "joint_delta", "tool_pose"])
def test_targets_of_a_lower_rate_are_the_last_ones_and_changes_are_added(kind):
    profile = load_profile("widowx")
    converter = ActionConverter(profile)
    space = dataclasses.replace(
        converter.space(ActionConversion(profile, kind), profile.space()), rate_hz=10.0
    )
    rng = np.random.default_rng(3)
    actions = np.column_stack([rng.normal(0, 0.1, (6, space.width - 1)), rng.integers(0, 2, 6)])
    stamps = 10**12 + np.arange(6) * 10**8
    episode = make_episode(0, 6, space=space, rate_hz=10.0, actions=actions, stamps_ns=stamps)
    composed = at_rate(episode, 5.0)
    if kind == "joint_delta":
        np.testing.assert_allclose(composed.actions[:, :-1], actions[::2, :-1] + actions[1::2, :-1])
        np.testing.assert_array_equal(composed.actions[:, -1], actions[1::2, -1])
    else:
        np.testing.assert_array_equal(composed.actions, actions[1::2])
