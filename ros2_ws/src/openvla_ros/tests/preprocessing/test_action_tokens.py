"""Bins, ids and normalisation: the original's numbers, and what holds for every value."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from support.golden_numbers import CASE_IDS, CASES, SETS, numbers

from openvla_ros.errors import InvalidValueError, StatisticsError
from openvla_ros.preprocessing.action_tokens import ActionCodec, normalise, unnormalise
from openvla_ros.preprocessing.dataset_statistics import FieldStatistics, read_statistics

CODEC = ActionCodec()
HALF_BIN = 1.0 / 255
UNIT = st.floats(-1.0, 1.0, width=32)


def field(width=7, *, mask=None, seed=0):
    random = np.random.default_rng(seed)
    q01 = random.uniform(-1.0, -0.1, width)
    q99 = random.uniform(0.1, 1.0, width)
    return FieldStatistics(
        mean=np.zeros(width), std=np.ones(width), min=q01 - 1.0, max=q99 + 1.0, q01=q01, q99=q99,
        mask=np.ones(width, bool) if mask is None else np.array(mask),
    )  # fmt: skip


@pytest.mark.parametrize("folder", SETS, ids=lambda folder: folder.name)
def test_ids_and_centers_equal_the_originals(folder):
    golden = np.load(folder / "action_tokenizer.npz")
    np.testing.assert_array_equal(CODEC.edges, golden["bins"])
    np.testing.assert_array_equal(CODEC.centers, golden["bin_centers"])
    np.testing.assert_array_equal(CODEC.encode(golden["x"]), golden["ids"])
    np.testing.assert_array_equal(CODEC.encode(golden["x"].astype(np.float32)), golden["ids_from_float32"])
    np.testing.assert_array_equal(CODEC.decode(golden["token_ids"]), golden["decoded"])
    assert CODEC.first_id - 1 == golden["action_token_begin_idx"]


@pytest.mark.parametrize(("folder", "index", "case"), CASES, ids=CASE_IDS)
def test_actions_equal_the_originals_for_every_dataset(folder, index, case):
    golden = numbers(folder, index)
    statistics = read_statistics(folder / "checkpoint" / "dataset_statistics.json")
    assert {statistics[key].action.width for key in statistics} == {7, 14}
    for key, dataset in statistics.items():
        centers = CODEC.decode(golden[f"action_token_ids::{key}"])
        actions = unnormalise(centers, dataset.action)
        assert actions.dtype == np.float64
        np.testing.assert_allclose(actions, golden[f"actions::{key}"], rtol=0, atol=1e-12)


def test_landmarks():
    np.testing.assert_array_equal(CODEC.encode([1.0, 0.0, -1.0]), [31744, 31872, 31999])
    assert (CODEC.first_id, CODEC.last_id) == (31744, 31999)


@given(arrays(np.float32, array_shapes(max_dims=3, max_side=5), elements=st.floats(-10, 10, width=32)))
def test_round_trip_is_within_half_a_bin_of_the_clipped_value(values):
    ids = CODEC.encode(values)
    assert ids.shape == values.shape
    assert ids.min() >= CODEC.first_id
    assert ids.max() <= CODEC.last_id
    error = np.abs(CODEC.decode(ids) - np.clip(values, -1, 1).astype(np.float64))
    assert error.max() <= HALF_BIN * (1 + 1e-12)


@given(UNIT, UNIT)
def test_larger_values_never_get_larger_ids(a, b):
    low, high = sorted((a, b))
    assert CODEC.encode(low) >= CODEC.encode(high)


@given(st.integers(0, 40000))
def test_a_decoded_id_encodes_to_itself_or_to_the_end_it_was_clipped_to(token):
    again = int(CODEC.encode(CODEC.decode(token)))
    # 255 centers for 256 ids: the id of exactly 1.0 shares the last center.
    assert again == int(np.clip(token, CODEC.first_id + 1, CODEC.last_id))


@given(st.integers(2, 300), arrays(np.float64, 6, elements=st.floats(-2, 2)))
def test_any_number_of_bins(bins, values):
    codec = ActionCodec(vocab_size=1000, bins=bins)
    error = np.abs(codec.decode(codec.encode(values)) - np.clip(values, -1, 1))
    assert error.max() <= 1.0 / (bins - 1) + 1e-12


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_never_becomes_a_token(bad):
    with pytest.raises(InvalidValueError, match=r"\[1\] is .*must be finite"):
        CODEC.encode([0.0, bad])
    with pytest.raises(InvalidValueError, match="must be finite"):
        normalise([0.0] * 6 + [bad], field())
    with pytest.raises(InvalidValueError, match="must be finite"):
        unnormalise([0.0] * 6 + [bad], field())


def test_ids_must_be_whole_numbers():
    with pytest.raises(InvalidValueError, match="float64"):
        CODEC.decode([31999.0])
    with pytest.raises(InvalidValueError, match="1 bins"):
        ActionCodec(bins=1)


@given(arrays(np.float64, (3, 7), elements=st.floats(0, 1)), st.integers(0, 50))
def test_normalising_there_and_back_inside_the_quantiles(share, seed):
    statistics = field(seed=seed, mask=[True] * 6 + [False])
    span = statistics.q99 - statistics.q01
    actions = np.where(statistics.mask, statistics.q01 + share * span, share)
    normalised = normalise(actions, statistics)
    assert normalised.dtype == np.float32
    assert np.abs(normalised).max() <= 1.0
    np.testing.assert_allclose(unnormalise(normalised, statistics), actions, atol=1e-6)


@given(st.integers(0, 50), arrays(np.float64, (4, 14), elements=st.floats(-20, 20)))
def test_outside_the_quantiles_the_ends_come_back(seed, actions):
    statistics = field(14, seed=seed)
    back = unnormalise(normalise(actions, statistics), statistics)
    np.testing.assert_allclose(back, np.clip(actions, statistics.q01, statistics.q99), atol=1e-5)


def test_dimensions_outside_the_mask_pass_unclipped_and_constant_ones_become_zero():
    width = 3
    statistics = FieldStatistics(
        mean=np.zeros(width), std=np.zeros(width), min=np.array([-1, 5.0, -1]), max=np.array([1, 5.0, 1]),
        q01=np.array([-1, 5.0, -1]), q99=np.array([1, 5.0, 1]), mask=np.array([True, True, False]),
    )  # fmt: skip
    np.testing.assert_array_equal(normalise([0.5, 5.0, 3.0], statistics), np.float32([0.5, 0.0, 3.0]))
    kept = normalise([0.5, 5.0, 3.0], statistics, constant_to_zero=False)
    np.testing.assert_array_equal(kept, np.float32([0.5, -1.0, 3.0]))
    # A dimension that never moved decodes to where it always was.
    np.testing.assert_array_equal(unnormalise([0.5, 0.9, 3.0], statistics), [0.5, 5.0, 3.0])


def test_extremes_are_another_choice_of_bounds():
    statistics = field()
    np.testing.assert_allclose(normalise(statistics.max, statistics, "extremes"), 1.0, atol=1e-6)
    np.testing.assert_allclose(unnormalise(-np.ones(7), statistics, "extremes"), statistics.min)
    # OpenVLA-OFT widens the range by 1e-8.
    wider = unnormalise(np.ones(7), statistics, "extremes", epsilon=1e-8)
    np.testing.assert_allclose(wider - statistics.max, 1e-8, rtol=1e-6)
    with pytest.raises(InvalidValueError, match="'quantiles' and 'extremes'"):
        unnormalise(np.ones(7), statistics, "mean")


def test_wrong_widths_and_unknown_extremes_are_refused():
    with pytest.raises(InvalidValueError, match=r"shape \(6,\).*must be 7"):
        unnormalise(np.zeros(6), field())
    unknown = np.full(7, np.nan)
    bare = FieldStatistics(unknown, unknown, unknown, unknown, -np.ones(7), np.ones(7), np.ones(7, bool))
    with pytest.raises(StatisticsError, match="lack min and max"):
        normalise(np.zeros(7), bare)
    np.testing.assert_array_equal(unnormalise(np.zeros(7), bare), np.zeros(7))
