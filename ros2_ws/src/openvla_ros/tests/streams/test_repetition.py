"""Words that are repeated, and words that are said again."""

import pytest

from openvla_ros.streams.repetition import Repetition


def verdicts(*heard):
    repetition = Repetition()
    return [bool(repetition.heard(words, acting, now_s)) for words, acting, now_s in heard]


@pytest.mark.parametrize("period_s", [0.1, 1.0, 3.0])
def test_words_that_follow_soon_are_a_repetition(period_s):
    assert verdicts(*(("go", False, n * period_s) for n in range(4))) == [False, True, True, True]


def test_while_they_are_carried_out_slower_ones_count_too_but_not_a_person_who_says_them_again():
    assert verdicts(("go", True, 0), ("go", True, 9), ("go", False, 26), ("go", False, 63)) == [
        False, True, True, False,
    ]  # fmt: skip
    assert verdicts(("go", True, 0), ("go", True, 11), ("go", False, 20)) == [False, False, False]


def test_other_words_and_silence_end_a_repetition():
    assert verdicts(("go", True, 0), ("go", True, 1), ("stop", False, 2), ("go", False, 3)) == [
        False, True, False, False,
    ]  # fmt: skip
    assert verdicts(("go", True, 0), ("go", True, 1), ("go", False, 4.5)) == [False, True, False]


def test_it_says_what_to_do():
    repetition = Repetition()
    repetition.heard("go", False, 0.0)
    assert repetition.heard("go", False, 2.0) == (
        "the same words are being repeated (the last time 2.0 s ago); say something else, or stop repeating "
        "them for 4 s"
    )
