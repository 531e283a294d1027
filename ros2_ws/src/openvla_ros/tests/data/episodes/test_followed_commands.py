"""Recorded actions compared with the measured motion: scale, sign, axes, delay, in every format."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from support.generated_episodes import make_episode

from openvla_ros.data.datasets.listing import summary
from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.data.episodes.followed_commands import (
    REACHED,
    FollowedSource,
    followed_warnings,
    reached_share,
)
from openvla_ros.values.geometry import transform_euler_to_matrix

STEPS = 40


def moving(share=1.0, delay=0, mirror=(1, 1, 1), units=None, turn=1.0, **changes):
    """An episode whose arm makes ``share`` of each command, ``delay`` steps after it."""
    generator = np.random.default_rng(3)
    steps = np.arange(STEPS)[:, None]
    motion = 0.02 * np.sin(steps * generator.uniform(0.2, 0.9, (1, 6)) + generator.uniform(0, 6, (1, 6)))
    made = np.roll(motion, delay, axis=0) * share
    made[:, :3] *= mirror
    made[:, 3:] *= turn
    poses = np.tile(np.eye(4), (STEPS, 1, 1))
    poses[1:, :3, 3] = np.cumsum(made[:-1, :3], axis=0)
    for i in range(1, STEPS):
        poses[i, :3, :3] = transform_euler_to_matrix(made[i - 1, 3:]) @ poses[i - 1, :3, :3]
    actions = np.concatenate([motion, np.ones((STEPS, 1))], axis=1)
    episode = make_episode(0, STEPS, poses=poses, actions=actions, **changes)
    if units is None:
        return episode
    return replace(episode, space=replace(episode.space, units=(*units, "1")))


def test_an_arm_that_follows_needs_no_warning():
    assert followed_warnings(moving()) == []
    assert followed_warnings(moving(share=0.8, delay=1)) == []


def test_part_of_a_motion_is_said_with_its_share():
    (position, rotation) = followed_warnings(moving(share=0.3))
    assert "made 30% of the commanded change of position" in position
    assert "moves farther with the same actions; --actions measured" in position
    assert "made 30% of the commanded change of rotation" in rotation
    # A unit that is not known says nothing about the scale.
    assert followed_warnings(moving(share=0.3, units=["1"] * 6)) == []


def test_a_motion_much_larger_than_commanded_is_said():
    assert "position changed 2.0 times as far" in followed_warnings(moving(share=2.0))[0]


@pytest.mark.parametrize("units", [None, ["1"] * 6])
def test_an_opposite_sign_is_said(units):
    assert followed_warnings(moving(mirror=(-1, -1, -1), units=units)) == [
        "the arm's position changed opposite to the actions: is their sign right?"
    ]
    assert followed_warnings(moving(mirror=(1, -1, 1), units=units)) == [
        "y changed opposite to the actions: is its sign right?"
    ]
    assert "rotation changed opposite" in followed_warnings(moving(turn=-1.0, units=units))[0]


def test_exchanged_axes_are_said():
    episode = moving()
    poses = episode.poses.copy()
    poses[:, :3, 3] = poses[:, [1, 2, 0], 3]
    assert (
        "position did not change as the recorded actions say"
        in followed_warnings(replace(episode, poses=poses))[0]
    )


def test_observations_after_their_action_and_late_ones_are_said():
    (warning, _) = followed_warnings(moving(delay=-1))
    assert "position changed 1 steps before the recorded action" in warning
    (late, _) = followed_warnings(moving(delay=4))
    assert "position changed 4 steps (0.8 s) after the recorded action" in late


def test_what_cannot_be_judged_is_not():
    assert followed_warnings(moving(share=0.3).slice(0, 5)) == []
    still = moving()
    assert followed_warnings(replace(still, poses=np.tile(np.eye(4), (STEPS, 1, 1)))) == []
    assert followed_warnings(replace(still, poses=None)) == []
    measured = replace(moving(share=0.3), provenance={"actions": "measured"})
    assert followed_warnings(measured) == []


def test_a_share_that_the_format_notes_stands():
    noted = moving(share=0.3, provenance={REACHED: "0.31"})
    (warning,) = followed_warnings(noted)
    assert "the recording controller adds each delta to the measured pose: the arm made 31%" in warning
    assert followed_warnings(moving(provenance={REACHED: "0.95"})) == []


def test_a_motion_that_lags_counts_over_a_second():
    commanded = np.zeros((20, 3))
    commanded[:10, 0] = 0.01
    late = np.roll(commanded, 2, axis=0)
    assert reached_share(commanded, late) == pytest.approx(0.8)
    assert reached_share(commanded, late, 10) == pytest.approx(1.0, abs=0.15)
    assert reached_share(commanded, 0.5 * commanded) == pytest.approx(0.5)
    assert reached_share(np.zeros((4, 3)), np.ones((4, 3))) is None


def test_it_is_logged_once_for_a_dataset_and_listed_for_each_episode(caplog):
    class Two:
        path, format = "two", "test"

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return moving(share=0.3)

    source = FollowedSource(Two())
    with caplog.at_level(logging.WARNING):
        episodes = [source[0], source[1]]
    assert len(caplog.messages) == 2  # position and rotation
    assert all("30% of the commanded" in warning for warning in summary(0, episodes[1]).warnings[:2])


def test_real_bridge_episodes_are_followed(bridge_folder):
    source = SourceRequest(bridge_folder).open()
    assert [followed_warnings(source[i]) for i in range(len(source))] == [[]] * len(source)
