"""A suspended process, a silent controller, answers that do not come: what an instruction does after that."""

import pytest
from support.instruction_bench import STALE, Bench

from openvla_ros.streams.assignment import Outcome
from openvla_ros.streams.buffer import Refusal
from openvla_ros.streams.instruction_run import RunLimits


def suspend(bench, assignment):
    bench.wait(6.0, ticks=False)


def silence_controller(bench, assignment):
    bench.run.controller_said("ok", "ok", True, bench.now())
    bench.wait(2.0)


def leave_unanswered(bench, assignment):
    bench.run.asked(bench.now())
    bench.wait(1.0)


def answer_late(bench, assignment):
    bench.run.asked(bench.now())
    bench.passed_s += 1.0
    bench.run.answered(assignment, bench.now())


AWAY = [
    (suspend, "the policy node was suspended for 6.0 s"),
    (silence_controller, "the controller has been silent for 1.5 s"),
    (leave_unanswered, "the policy did not answer for 0.70 s; the limit is 0.6 s"),
    (answer_late, "the policy did not answer for 1.00 s; the limit is 0.6 s"),
]


@pytest.mark.parametrize(("happens", "why"), AWAY)
def test_an_arm_that_had_to_stop_waits_for_a_new_instruction(happens, why):
    bench = Bench()
    assignment = bench.begin()
    bench.tick()
    bench.act(assignment)
    bench.events.clear()
    happens(bench, assignment)
    assert (assignment.ending.outcome, assignment.ending.message) == (Outcome.ABORTED, why)
    assert bench.events == [
        ("announce", ""),
        ("info", f"aborted: 'lift the cube': {why}"),
        ("hold", ""),
    ]
    assert bench.health().message == f"not acting: waiting for a new instruction; {why}"
    assert bench.send(assignment) is None
    bench.passed_s += 0.1
    bench.say("lift the cube")
    assert bench.current is not None
    assert bench.health().message == "step 0 of 'lift the cube'"


@pytest.mark.parametrize(("happens", "why"), AWAY)
def test_an_instruction_goes_on_after_that_where_it_is_asked_to_resume(happens, why):
    bench = Bench(resume=True)
    assignment = bench.begin()
    bench.tick()
    bench.act(assignment)
    happens(bench, assignment)
    assert bench.current is assignment
    assert bench.told("hold") == []
    bench.act(assignment)


@pytest.mark.parametrize("resume", [False, True])
def test_a_chunk_from_before_a_standstill_does_not_go_out(resume):
    bench = Bench(resume=resume)
    assignment = bench.begin()
    bench.tick()
    bench.passed_s += 6.0  # suspended in the middle of an inference: it ends before the timer is served
    assert bench.send(assignment) is None
    assert bench.told("chunk") == []


def test_a_short_standstill_ends_nothing():
    bench = Bench()
    assignment = bench.begin()
    bench.tick()
    bench.wait(4.9, ticks=False)
    assert assignment.ending is None
    assert bench.send(assignment) is not None


def test_a_standstill_before_the_instruction_does_not_count():
    bench = Bench()
    bench.tick()
    bench.wait(60.0, ticks=False)
    assert bench.events == []
    assert bench.health().message == "not acting: no instruction has been given"
    assignment = bench.begin()
    bench.tick()
    assert assignment.ending is None


def test_time_in_which_the_node_was_not_configured_is_no_standstill():
    bench = Bench()
    bench.tick()
    bench.passed_s += 60.0
    bench.run.listen(bench.now())
    assignment = bench.begin()
    assert bench.send(assignment) is not None
    bench.tick()
    assert assignment.ending is None


def test_the_reason_that_is_told_is_that_of_the_ending():
    bench = Bench()
    assignment = bench.begin(give_up_s=5.0)
    bench.tick()
    bench.run.refuse(assignment, STALE)
    bench.wait(6.0, ticks=False)  # suspended, and without a step for too long
    assert "was suspended for 6.0 s" in assignment.ending.message
    assert assignment.ending.message in bench.health().message


def test_the_first_answer_of_an_instruction_may_take_its_time():
    bench = Bench()
    bench.act(bench.begin("first"))
    assignment = bench.begin("second")
    bench.run.asked(bench.now(), first=True)
    bench.wait(3.0)
    bench.run.answered(assignment, bench.now())
    assert assignment.ending is None


def test_questions_that_fail_again_and_again_are_a_silence():
    bench = Bench()
    assignment = bench.begin()
    bench.run.asked(bench.now(), first=True)
    for _ in range(8):
        bench.run.failed(assignment, Refusal("policy", "no connection"))
        bench.wait(0.1)
        bench.run.asked(bench.now())
    assert bench.refusals.counts["policy"] == 8
    assert "the policy did not answer" in assignment.ending.message


def test_a_late_answer_for_the_instruction_before_does_not_end_the_new_one():
    bench = Bench()
    older = bench.begin("first")
    bench.act(older)
    bench.run.asked(bench.now())
    bench.passed_s += 1.0
    newer = bench.begin("second")
    bench.run.answered(older, bench.now())
    assert bench.current is newer
    assert bench.told("hold") == []


def test_limits_that_are_changed_apply_to_the_instruction_in_progress():
    bench = Bench()
    assignment = bench.begin()
    bench.act(assignment)
    bench.run.asked(bench.now())
    bench.run.set_limits(RunLimits(give_up_s=5.0, answer_s=10.0, look_s=0.5))
    bench.wait(2.0)
    assert assignment.ending is None
    bench.run.set_limits(RunLimits(give_up_s=5.0, answer_s=1.0, look_s=0.5))
    bench.tick()
    assert "the limit is 1 s" in assignment.ending.message


def test_the_policy_begins_once_with_each_instruction():
    bench = Bench()
    first = bench.begin("first")
    assert not bench.run.is_served(first)
    bench.run.serving(first)
    assert bench.run.is_served(first)
    second = bench.begin("second")
    assert not bench.run.is_served(second)
