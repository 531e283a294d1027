"""Publishers are told apart by their messages' numbers where rclpy does not report them (Jazzy)."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from hypothesis import given
from hypothesis import strategies as st

from openvla_ros.discovery.message_publishers import FORGET_S, LOST_AT_ONCE, MessagePublishers


def heard(numbers, step_s=0.005):
    """Return whom each of ``numbers`` is from, ``step_s`` apart."""
    known = MessagePublishers()
    return [known.of({"publication_sequence_number": n}, i * step_s) for i, n in enumerate(numbers)]


@given(st.integers(1, 10**9), st.lists(st.integers(1, LOST_AT_ONCE), max_size=50))
def test_one_publisher_stays_one_whatever_is_lost(first, steps):
    numbers = [first]
    for step in steps:
        numbers.append(numbers[-1] + step)
    assert set(heard(numbers)) == {0}


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.lists(st.booleans(), min_size=10, max_size=60))
def test_two_publishers_are_noticed_wherever_their_numbers_are(one, other, order):
    """At the third message of whichever has the lower number, if not sooner."""
    numbers, counts = [], {False: one, True: other}
    for sender in [False, True, False, True, False, True, *order]:
        numbers.append(counts[sender])
        counts[sender] += 1
    assert len(set(heard(numbers))) >= 2


@given(st.integers(1, 10**6), st.integers(LOST_AT_ONCE + 60, 10**6), st.booleans(), st.lists(st.booleans()))
def test_two_whose_numbers_are_far_apart_are_never_confused(one, apart, lower_first, order):
    counts = {lower_first: one, not lower_first: one + apart}
    numbers, senders = [], [False, True, *order[:50]]
    for sender in senders:
        numbers.append(counts[sender])
        counts[sender] += 1
    assert heard(numbers) == [int(sender) for sender in senders]


def test_two_with_the_same_numbers_take_turns():
    assert heard([7, 7, 8, 8, 9, 9]) == [0, 1] * 3


def test_what_a_stalled_process_missed_is_no_second_publisher():
    known = MessagePublishers()
    assert known.of({"publication_sequence_number": 10}, 0.0) == 0
    assert known.of({"publication_sequence_number": 1900}, 1.0) == 0
    assert known.of({"publication_sequence_number": 10_000}, 1.001) == 1


def test_a_restarted_publisher_that_catches_up_with_its_predecessor_stays_itself():
    known, now_s = MessagePublishers(), 0.0
    told = []
    for number in [*range(1, 200), *range(1, 400)]:
        now_s += 0.01
        told.append(known.of({"publication_sequence_number": number}, now_s))
    assert told == [0] * 199 + [1] * 399
    assert known.of({"publication_sequence_number": 1}, now_s + FORGET_S + 1.0) == 2


def test_gids_are_taken_where_they_are_reported_and_nothing_is_made_up():
    known = MessagePublishers()
    info = {"publisher_gid": {"data": [1, 2]}, "publication_sequence_number": 5}
    assert known.of(info, 0.0) == bytes([1, 2])
    assert known.of({}, 0.0) is None
    assert known.of({"publication_sequence_number": None}, 0.0) is None
