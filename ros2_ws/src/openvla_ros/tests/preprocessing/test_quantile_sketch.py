"""Statistics over long streams: exact where they say so, within the stated error elsewhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_ros.errors import InvalidValueError, StatisticsError
from openvla_ros.preprocessing.quantile_sketch import QuantileSketch
from openvla_ros.preprocessing.statistics_accumulator import DatasetAccumulator, StatisticsAccumulator

SHARES = (0.0, 0.01, 0.25, 0.5, 0.99, 1.0)


def streams(count, random):
    """Columns that are hard for a quantile sketch."""
    ramp = np.arange(count, dtype=np.float64)
    return np.stack(
        [
            ramp,
            -ramp,
            np.abs(ramp - count // 2),  # falls, then rises
            np.where(ramp % 2 == 0, ramp, -ramp),  # ever wider
            random.integers(0, 2, count).astype(np.float64),  # a gripper
            random.standard_cauchy(count),
            np.repeat(random.standard_normal(count // 1000 + 1), 1000)[:count],  # no-op runs
        ],
        axis=1,
    )


def rank_distance(column, value, share):
    """How far ``value`` is from covering the rank of ``share``, as a share of all rows."""
    target = share * (len(column) - 1)
    below, up_to = np.sum(column < value), np.sum(column <= value)
    return max(below - target, target - (up_to - 1), 0.0) / len(column)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 120), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_within_the_tails_quantiles_equal_numpys_to_the_bit(lengths, seed):
    random = np.random.default_rng(seed)
    rows = random.standard_normal((sum(lengths), 3)).round(random.integers(0, 4))
    sketch = QuantileSketch(3, tail=1024, level=16)
    for part in np.split(rows, np.cumsum(lengths)[:-1]):
        sketch.add(part)
    for share in SHARES:
        found = sketch.quantile(share)
        assert found.rank_error == 0.0
        np.testing.assert_array_equal(found.values, np.quantile(rows, share, axis=0))


def test_the_usual_quantiles_are_exact_far_beyond_the_tails():
    rows = streams(40_000, np.random.default_rng(1))
    sketch = QuantileSketch(7, tail=512, level=256)
    sketch.add(rows)
    for share in (0.01, 0.99):
        found = sketch.quantile(share)
        assert found.rank_error == 0.0
        np.testing.assert_array_equal(found.values, np.quantile(rows, share, axis=0))
    assert sketch.quantile(0.5).rank_error > 0.0


@pytest.mark.parametrize("shards", [1, 5])
@pytest.mark.parametrize("count", [2_000, 100_000])
def test_beyond_the_tails_the_stated_error_holds(count, shards):
    rows = streams(count, np.random.default_rng(count))
    total = QuantileSketch(7, tail=16, level=512)
    for shard in np.array_split(rows, shards):
        part = QuantileSketch(7, tail=16, level=512)
        for start in range(0, len(shard), 333):
            part.add(shard[start : start + 333])
        total.merge(part)
    assert total.count == count
    for share in (0.01, 0.3, 0.5, 0.99):
        found = total.quantile(share)
        assert 0.0 < found.rank_error < 0.06
        for column, value in zip(rows.T, found.values, strict=True):
            assert rank_distance(column, value, share) <= found.rank_error + 1.0 / count


@pytest.mark.slow
def test_millions_of_frames_in_bounded_memory():
    random = np.random.default_rng(3)
    rows = streams(3_000_000, random)
    accumulator = StatisticsAccumulator(7)
    small = QuantileSketch(7, tail=1024)
    for start in range(0, len(rows), 50_000):
        accumulator.add(rows[start : start + 50_000])
        small.add(rows[start : start + 50_000])
    statistics = accumulator.statistics(np.ones(7, bool))
    assert statistics.quantile_rank_error == 0.0
    np.testing.assert_array_equal(statistics.q01, np.quantile(rows, 0.01, axis=0))
    np.testing.assert_array_equal(statistics.q99, np.quantile(rows, 0.99, axis=0))
    found = small.quantile(0.01)
    assert 0.0 < found.rank_error < 0.0005
    for column, value in zip(rows.T, found.values, strict=True):
        assert rank_distance(column, value, 0.01) <= found.rank_error + 1e-6


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 50), min_size=2, max_size=6), st.integers(0, 2**32 - 1))
def test_shards_merge_to_the_statistics_of_the_whole(lengths, seed):
    random = np.random.default_rng(seed)
    rows = random.standard_normal((sum(lengths) + 1, 2)) * 1e-3 + 5.0
    total = StatisticsAccumulator(2)
    for part in np.split(rows, np.cumsum(lengths)):
        shard = StatisticsAccumulator(2)
        shard.add(part)
        total.merge(shard)
    found = total.statistics([True, False])
    assert total.count == len(rows)
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(found.std, rows.std(axis=0), rtol=1e-9, atol=1e-15)
    np.testing.assert_array_equal(found.min, rows.min(axis=0))
    np.testing.assert_array_equal(found.max, rows.max(axis=0))
    np.testing.assert_array_equal(found.q01, np.quantile(rows, 0.01, axis=0))
    np.testing.assert_array_equal(found.q99, np.quantile(rows, 0.99, axis=0))
    assert found.mask.tolist() == [True, False]


def test_datasets_count_frames_and_trajectories():
    first, second = DatasetAccumulator(7, 3), DatasetAccumulator(7, 3)
    first.add_episode(np.zeros((4, 7)), np.ones((4, 3)))
    second.add_episode(np.ones((6, 7)), np.ones((6, 3)))
    first.merge(second)
    found = first.statistics([True] * 6 + [False])
    assert (found.num_transitions, found.num_trajectories) == (10, 2)
    np.testing.assert_allclose(found.action.mean, 0.6)
    assert found.proprio is not None
    assert found.proprio.mask.tolist() == [True] * 3
    with pytest.raises(StatisticsError, match="all episodes have proprioceptive states, or none"):
        first.add_episode(np.zeros((4, 7)))
    with pytest.raises(StatisticsError, match="cannot merge"):
        first.merge(DatasetAccumulator(7))


def test_an_estimate_says_so_in_the_file():
    accumulator = StatisticsAccumulator(1, tail=4, level=64)
    accumulator.add(np.random.default_rng(0).standard_normal((5000, 1)))
    found = accumulator.statistics([True])
    assert found.quantile_rank_error > 0.0
    assert found.to_json()["quantile_rank_error"] == found.quantile_rank_error


def test_wrong_frames_are_refused():
    accumulator = StatisticsAccumulator(3)
    with pytest.raises(StatisticsError, match=r"frames\[1, 2\] is nan"):
        accumulator.add([[0.0, 0.0, 0.0], [0.0, 0.0, np.nan]])
    with pytest.raises(StatisticsError, match=r"shape \(1, 2\)"):
        accumulator.add([[0.0, 0.0]])
    with pytest.raises(StatisticsError, match="at least one"):
        accumulator.statistics([True] * 3)
    with pytest.raises(StatisticsError, match="3 and 2 dimensions"):
        accumulator.merge(StatisticsAccumulator(2))
    sketch = QuantileSketch(1)
    with pytest.raises(InvalidValueError, match="empty stream"):
        sketch.quantile(0.5)
    with pytest.raises(InvalidValueError, match="cannot merge"):
        sketch.merge(QuantileSketch(1, tail=8))
    with pytest.raises(InvalidValueError, match="merge a quantile sketch with itself"):
        sketch.merge(sketch)
    with pytest.raises(InvalidValueError, match=r"quantile 1.5"):
        sketch.quantile(1.5)
    with pytest.raises(InvalidValueError, match="level 3"):
        QuantileSketch(1, level=3)
