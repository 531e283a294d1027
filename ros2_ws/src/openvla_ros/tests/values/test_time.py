"""Seconds and nanoseconds: exact where stamps are concerned."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openvla_ros.values.time import NS_PER_S, nanoseconds, seconds

STAMPS = st.integers(min_value=-(2**50), max_value=2**50)  # 13 days


@given(STAMPS)
def test_every_duration_of_weeks_comes_back_exactly(ns):
    assert nanoseconds(seconds(ns)) == ns


@given(st.lists(STAMPS, min_size=1))
def test_an_array_gives_what_its_numbers_give_one_by_one(stamps):
    at_once = seconds(np.array(stamps, dtype=np.int64))
    assert at_once.dtype == np.float64
    assert at_once.tolist() == [seconds(ns) for ns in stamps]


def test_a_second_is_a_second_and_half_a_nanosecond_is_rounded():
    assert seconds(NS_PER_S) == 1.0
    assert nanoseconds(0.02) == 20_000_000
    assert nanoseconds(1.6e-9) == 2
    assert isinstance(nanoseconds(1.0), int)


def test_what_is_no_duration_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        nanoseconds(math.nan)
    with pytest.raises(OverflowError):
        nanoseconds(math.inf)
