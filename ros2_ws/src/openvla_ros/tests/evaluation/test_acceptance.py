"""Guesses are counted as the decoder would use them: up to the first wrong token."""

import numpy as np
import pytest

from openvla_ros.errors import DatasetError
from openvla_ros.evaluation.acceptance import measure_guesses
from openvla_ros.preprocessing.dataset_statistics import FieldStatistics

ONE = np.ones(3)
UNIT = FieldStatistics(0 * ONE, ONE, -ONE, ONE, -ONE, ONE, np.array([True, True, False]))


def quality(*episodes):
    return {q.guess: q for q in measure_guesses([np.array(e, dtype=float) for e in episodes], UNIT)}


def test_a_constant_episode_is_always_guessed():
    previous = quality([[0.1, 0.2, 1.0]] * 5)["previous"]
    assert previous.actions == 4
    np.testing.assert_array_equal(previous.right, [1.0, 1.0])
    np.testing.assert_array_equal(previous.prefix, [0.0, 0.0, 1.0])
    assert previous.mean_prefix == 2.0


def test_only_the_tokens_before_the_first_wrong_one_count():
    rows = [[0.1, 0.5, 1.0], [0.9, 0.5, 1.0], [0.9, -0.5, 1.0]]
    previous = quality(rows)["previous"]
    np.testing.assert_array_equal(previous.right, [0.5, 0.5])  # each dimension once
    np.testing.assert_array_equal(previous.prefix, [0.5, 0.5, 0.0])


def test_a_steady_change_is_extrapolated_and_a_rest_is_frequent():
    found = quality([[0.1 * i, 0.0, 1.0] for i in range(-4, 5)])
    assert found["extrapolated"].right[0] > found["previous"].right[0]
    assert found["frequent"].right[1] == 1.0


def test_nothing_to_guess_is_said():
    with pytest.raises(DatasetError, match="two consecutive actions"):
        quality([[0.0, 0.0, 0.0]])
