"""Orders are permutations, weighted, repeatable from any position; samples are the steps they name."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.generated_episodes import make_episode

from openvla_ros.data.training.reading_order import Mixture, ShuffledSteps, StepPlace
from openvla_ros.data.training.training_reader import TrainingReader
from openvla_ros.errors import DatasetError, InvalidValueError


class MemorySource:
    format, path = "memory", "memory"

    def __init__(self, episodes):
        self.episodes, self.opened = episodes, []

    def __len__(self):
        return len(self.episodes)

    def __getitem__(self, index):
        self.opened.append(index)
        if self.episodes[index] is None:
            raise DatasetError(f"episode {index} is damaged")
        return self.episodes[index]


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=30).filter(any),
    seed=st.integers(0, 99),
    window=st.integers(1, 8),
)
def test_a_pass_reads_every_step_once(lengths, seed, window):
    order = ShuffledSteps(lengths, seed, window)
    everything = {(e, s) for e, length in enumerate(lengths) for s in range(length)}
    for number in range(2):
        seen = [order[number * len(order) + i] for i in range(len(order))]
        assert len(seen) == len(everything)
        assert set(seen) == everything


def test_passes_differ_and_a_fresh_order_gives_the_same_from_anywhere():
    lengths = [7] * 40
    order = ShuffledSteps(lengths, 3, 8)
    whole = [order[i] for i in range(2 * len(order))]
    assert whole[: len(order)] != whole[len(order) :]
    assert whole[:7] != sorted(whole[:7])
    again = ShuffledSteps(lengths, 3, 8)
    assert [again[i] for i in (399, 12, 500)] == [whole[i] for i in (399, 12, 500)]
    assert [ShuffledSteps(lengths, 4, 8)[i] for i in range(20)] != whole[:20]


def test_a_window_opens_each_episode_once():
    source = MemorySource([make_episode(i, 5) for i in range(20)])
    reader = TrainingReader({"a": source}, window=4)
    source.opened.clear()
    for sample in islice(reader.iterate(), 100):
        assert sample.actions.shape == (1, 7)
    assert sorted(source.opened) == list(range(20))


def test_mixture_follows_weights_times_sizes():
    mixture = Mixture([[10] * 30, [10] * 10, [5]], [1.0, 2.0, 0.0], seed=5)
    np.testing.assert_allclose(mixture.shares, [0.6, 0.4, 0.0])
    drawn = np.bincount([mixture[i].dataset for i in range(20_000)], minlength=3) / 20_000
    np.testing.assert_allclose(drawn, [0.6, 0.4, 0.0], atol=0.02)
    plain = Mixture([[10] * 30, [10] * 10], [1.0, 1.0], seed=5, balanced=False)
    np.testing.assert_allclose(plain.shares, [0.5, 0.5])


def test_mixture_is_repeatable_and_reads_each_dataset_in_passes():
    lengths = [[3] * 20, [4] * 5]
    places = [Mixture(lengths, [1.0, 3.0], seed=1)[i] for i in (0, 9_000, 4_095, 4_096)]
    mixture = Mixture(lengths, [1.0, 3.0], seed=1)
    run = [mixture[i] for i in range(9_001)]
    assert places == [run[i] for i in (0, 9_000, 4_095, 4_096)]
    second = [(p.episode, p.step) for p in run if p.dataset == 1]
    assert len(set(second[:20])) == len(set(second[20:40])) == 20


def test_samples_are_the_steps_they_name():
    episodes = [make_episode(i, 4 + i) for i in range(3)]
    reader = TrainingReader({"a": MemorySource(episodes)}, cameras=["wrist"], horizon=3)
    sample = reader.at(StepPlace(0, 2, 4))
    np.testing.assert_array_equal(sample.actions, episodes[2].actions[[4, 5, 5]])
    assert set(sample.observation.images) == {"wrist"}
    np.testing.assert_array_equal(sample.observation.images["wrist"], episodes[2].images["wrist"][4])
    assert sample.observation.instruction == episodes[2].instruction
    with pytest.raises(ValueError, match="read-only"):
        sample.actions[0] = 0


def test_damaged_and_unlabelled_episodes_are_left_out_and_named():
    source = MemorySource([make_episode(0), None, make_episode(2, instruction=" ")])
    reader = TrainingReader({"a": source})
    assert reader.steps == {"a": 6}
    assert len(reader.skipped) == 2
    assert "episode 1 is damaged" in reader.skipped[0]
    assert "no instruction" in reader.skipped[1]
    assert all(reader[i].observation.instruction == make_episode(0).instruction for i in range(12))


def test_wrong_requests_are_refused():
    source = MemorySource([make_episode(0)])
    with pytest.raises(InvalidValueError, match=r"weights name \['b'\]; the datasets are \['a'\]"):
        TrainingReader({"a": source}, weights={"b": 1.0})
    with pytest.raises(InvalidValueError, match="horizon is 0"):
        TrainingReader({"a": source}, horizon=0)
    with pytest.raises(InvalidValueError, match="no steps to read"):
        TrainingReader({"a": MemorySource([None])})
    with pytest.raises(InvalidValueError, match="all weights are 0"):
        TrainingReader({"a": source}, weights={"a": 0.0})
    with pytest.raises(InvalidValueError, match=r"no camera \['top'\]; it has \['primary', 'wrist'\]"):
        TrainingReader({"a": source}, cameras=["top"])[0]
