"""Words and goals: every phrasing comes back as the goal that it was made from."""

import pytest

from openvla_ros.errors import InvalidValueError
from openvla_ros.values.goal import PHRASES, Goal, Verb, parse_goal

GOALS = [
    Goal(Verb.REACH, "red cube"),
    Goal(Verb.LIFT, "green cube"),
    Goal(Verb.PUSH, "blue cube"),
    Goal(Verb.PUT, "yellow cube", "plate"),
    Goal(Verb.PUT, "yellow cube", "bowl"),
    Goal(Verb.PUT, "red cube", "blue cube"),
]


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.instruction)
def test_every_phrasing_means_its_goal(goal):
    assert len(goal.phrasings) == len(PHRASES[goal.verb])
    for words in goal.phrasings:
        assert parse_goal(words) == goal
        assert parse_goal(f"  {words.capitalize()}. ") == goal


def test_different_goals_are_told_apart_by_their_words():
    words = [phrase for goal in GOALS for phrase in goal.phrasings]
    assert len(set(words)) == len(words)


def test_the_words_say_in_the_bowl_and_on_the_plate():
    assert Goal(Verb.PUT, "red cube", "bowl").instruction == "put the red cube in the bowl"
    assert Goal(Verb.PUT, "red cube", "plate").instruction == "put the red cube on the plate"


@pytest.mark.parametrize("words", ["", "dance", "put the red cube", "lift the red cube on the plate"])
def test_words_that_mean_nothing_are_refused_with_what_is_understood(words):
    with pytest.raises(
        InvalidValueError, match=r"is not understood; known phrasings: move to the \{object\}"
    ):
        parse_goal(words)


def test_a_destination_belongs_to_put_alone():
    with pytest.raises(InvalidValueError, match="put needs one"):
        Goal(Verb.PUT, "red cube")
    with pytest.raises(InvalidValueError, match="put needs one"):
        Goal(Verb.LIFT, "red cube", "plate")
