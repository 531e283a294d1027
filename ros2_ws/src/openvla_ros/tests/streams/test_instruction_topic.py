"""What the topic of instructions begins, replaces and stops, and what is too old to be acted on."""

import pytest
from support.instruction_bench import LIMITS, Bench

from openvla_ros.streams.assignment import Outcome


def test_the_topic_begins_an_instruction_that_ends_without_a_step_for_too_long():
    bench = Bench()
    bench.say("lift the cube")
    current = bench.current
    assert (current.instruction, current.is_goal) == ("lift the cube", False)
    assert (current.give_up_s, current.time_limit_s) == (LIMITS["give_up_s"], None)


def test_a_message_that_two_subscriptions_hear_counts_once():
    bench = Bench()
    bench.say("lift the cube", latched=True)
    bench.end(bench.current)
    bench.say("lift the cube", published_s=0.0)
    assert bench.current is None
    bench.passed_s += 4.0
    bench.say("lift the cube")
    assert bench.current is not None


@pytest.mark.parametrize("period_s", [0.1, 1.0, 4.0])
def test_words_that_a_program_repeats_do_not_begin_again_what_had_to_stop(period_s):
    bench = Bench()
    for _ in range(3):
        bench.say("lift the cube")
        bench.wait(period_s)
    bench.run.controller_said("e_stop", "emergency stop", True, bench.now())
    assert bench.current is None
    for _ in range(20):  # also while the stop is reset and the arm held
        bench.say("lift the cube")
        assert bench.current is None
        bench.wait(period_s)
    assert "the same words are being repeated" in bench.health().message
    bench.say("put it down")
    assert bench.current.instruction == "put it down"


def test_nor_where_they_began_after_the_stop():
    bench = Bench()
    for _ in range(5):  # the emergency stop is latched: the controller refuses
        bench.say("lift the cube")
        if bench.current is not None:
            bench.run.controller_answered(bench.current, "e_stop: emergency stop", bench.now())
        bench.wait(1.0)
    bench.say("lift the cube")
    assert bench.current is None


def test_the_same_words_count_again_once_they_are_no_longer_repeated():
    bench = Bench()
    for _ in range(3):
        bench.say("lift the cube")
        bench.wait(1.0)
    bench.end(bench.current)
    bench.say("lift the cube")
    assert bench.current is None
    bench.wait(3.5)
    bench.say("lift the cube")
    assert bench.current is not None


def test_a_person_says_the_same_words_again_as_often_as_they_like():
    bench = Bench()
    for _ in range(4):
        bench.say("lift the cube")
        assert bench.current is not None
        bench.wait(2.0)
        bench.end(bench.current)
        bench.wait(2.0)
    bench.say("")
    bench.wait(0.1)
    bench.say("lift the cube")
    assert bench.current is not None


def test_the_same_words_go_on_and_others_replace():
    bench = Bench()
    bench.say("lift the cube")
    current = bench.current
    bench.passed_s += 1.0
    bench.say("lift the cube")
    assert bench.current is current
    bench.passed_s += 1.0
    bench.say("put it down")
    assert current.ending.outcome is Outcome.PREEMPTED
    assert bench.current.instruction == "put it down"


def test_an_empty_instruction_stops():
    bench = Bench()
    bench.say("lift the cube")
    current = bench.current
    bench.passed_s += 1.0
    bench.say(" ")
    assert (current.ending.outcome, current.ending.message) == (
        Outcome.ABORTED, "an empty instruction arrived on the topic",
    )  # fmt: skip
    assert bench.events[-1] == ("hold", "")
    assert bench.health().message == "not acting: no instruction has been given"
    bench.events.clear()
    bench.passed_s += 1.0
    bench.say("")
    assert bench.events == []


def test_a_latched_instruction_from_before_does_not_begin_and_everybody_is_told_why():
    bench = Bench()
    bench.say("lift the cube", latched=True, published_s=-2.0)
    assert bench.current is None
    assert bench.told("announce") == []
    why = "instruction 'lift the cube' was ignored: it was given 2.0 s before this policy began to listen"
    assert bench.told("warning") == [f"{why}; waiting for a new instruction"]
    assert (bench.health().level, bench.health().message) == (
        "warn", f"not acting: waiting for a new instruction; {why}",
    )  # fmt: skip
    bench.say("lift the cube", latched=True)
    assert bench.current is not None
    bench.end(bench.current)
    assert bench.health().message == "not acting: no instruction has been given"


def test_a_publisher_whose_clock_is_ahead_may_be_an_old_one():
    bench = Bench()
    bench.say("lift the cube", latched=True, published_s=4.0)
    assert bench.current is None
    assert "its publisher's clock is 4.0 s ahead" in bench.health().message


def test_what_only_who_listens_hears_is_never_old():
    bench = Bench()
    bench.say("lift the cube", published_s=-2.0)  # a publisher whose clock is behind
    assert bench.current is not None


def test_resuming_counts_a_latched_instruction_from_before():
    bench = Bench(resume=True)
    bench.say("lift the cube", latched=True, published_s=-2.0)
    assert bench.current is not None


def test_an_empty_latched_instruction_from_before_stops_too():
    bench = Bench()
    assignment = bench.begin(is_goal=True)
    bench.say("", latched=True, published_s=-2.0)
    assert assignment.ending.outcome is Outcome.ABORTED


def test_listening_anew_makes_what_was_said_before_old():
    bench = Bench()
    bench.passed_s = 10.0
    bench.run.listen(bench.now())
    bench.say("lift the cube", latched=True, published_s=9.0)
    assert bench.current is None
    assert "1.0 s before" in bench.health().message


def test_an_old_instruction_beside_one_in_force_is_ignored_and_leaves_no_reason_behind():
    bench = Bench()
    assignment = bench.begin()
    bench.say("put it down", latched=True, published_s=-2.0)
    assert bench.current is assignment
    bench.end(assignment)
    assert bench.health().message == "not acting: no instruction has been given"


def test_an_inactive_node_ignores_the_topic_and_says_that_it_must_be_said_again():
    bench = Bench(active=False)
    bench.say("lift the cube")
    bench.run.activate()
    assert bench.current is None
    assert "ignored: the policy node is not active" in bench.health().message
    bench.passed_s += 1.0
    bench.say("lift the cube")
    assert bench.current is not None


def test_beside_a_goal_the_topic_can_only_stop():
    bench = Bench()
    goal = bench.begin("lift the cube", is_goal=True)
    bench.say("put it down")
    assert bench.current is goal
    assert bench.told("warning") == [
        "instruction 'put it down' was ignored: the goal 'lift the cube' is being carried out"
    ]
    bench.passed_s += 1.0
    bench.say("")
    assert goal.ending.outcome is Outcome.ABORTED


def test_a_goal_replaces_what_the_topic_said():
    bench = Bench()
    bench.say("lift the cube")
    by_topic = bench.current
    goal = bench.begin("put it down", is_goal=True)
    assert by_topic.ending.outcome is Outcome.PREEMPTED
    assert bench.current is goal


@pytest.mark.parametrize(("is_goal", "steps", "ends"), [(True, 1, True), (True, 0, False), (False, 1, False)])
def test_success_ends_a_goal_that_has_acted_and_nothing_else(is_goal, steps, ends):
    bench = Bench()
    assignment = bench.begin(is_goal=is_goal)
    for _ in range(steps):
        bench.act(assignment)
    bench.run.task_succeeded(bench.now())
    assert (assignment.ending is not None) == ends
    assert not ends or assignment.ending.message == "the robot reported success (topic task/success)"


def test_success_of_an_idle_robot_is_no_matter():
    bench = Bench()
    bench.run.task_succeeded(bench.now())
    assert bench.events == []
