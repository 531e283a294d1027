"""Units in which 1 stands for something else than a metre or a radian."""

from dataclasses import replace

import numpy as np
import pytest
from support.generated_episodes import make_episode

from openvla_ros.data.episodes.composed_deltas import at_rate
from openvla_ros.errors import InvalidValueError

UNITS = ("0.05 m", "0.05 m", "0.05 m", "0.5 rad", "0.5 rad", "0.5 rad", "1")
FACTORS = [0.05] * 3 + [0.5] * 3


def scaled(episode):
    """The same motion, told in units of 0.05 m and 0.5 rad as LIBERO's RLDS datasets do."""
    actions = np.concatenate([episode.actions[:, :6] / FACTORS, episode.actions[:, 6:]], axis=1)
    return replace(episode, space=replace(episode.space, units=UNITS), actions=actions)


def test_measured_actions_are_in_the_units_of_the_space():
    episode = make_episode(3)
    told, plain = scaled(episode).with_measured_actions(), episode.with_measured_actions()
    np.testing.assert_allclose(told.actions[:, :6] * FACTORS, plain.actions[:, :6], atol=1e-15)


def test_composed_steps_turn_by_radians_not_by_units():
    episode = make_episode(3, 6)
    slow = episode.rate_hz / 3
    told, plain = at_rate(scaled(episode), slow), at_rate(episode, slow)
    np.testing.assert_allclose(told.actions[:, :6] * FACTORS, plain.actions[:, :6], atol=1e-14)


@pytest.mark.parametrize("unit", ["1", "cm", "m/s", "0.05", "0.0.5 m"])
def test_an_unknown_unit_is_refused(unit):
    episode = make_episode(3)
    unknown = replace(episode, space=replace(episode.space, units=(unit, *UNITS[1:])))
    for convert in (lambda e: e.with_measured_actions(), lambda e: at_rate(e, e.rate_hz / 2)):
        with pytest.raises(InvalidValueError, match=f"unit of 'x' is '{unit}'"):
            convert(unknown)
