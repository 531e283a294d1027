"""From its beginning to its one ending, an instruction obeys its rules."""

import pytest
from support.instruction_bench import STALE, Bench

from openvla_ros.errors import PolicyError
from openvla_ros.streams.assignment import Ending, Outcome
from openvla_ros.streams.buffer import Refusal

# Beginning and ending


def test_a_beginning_is_announced_before_the_controller_is_asked_for_the_arm():
    bench = Bench()
    assignment = bench.begin()
    assert bench.current is assignment
    assert bench.events == [
        ("announce", "lift the cube"),
        ("info", "begins: 'lift the cube'"),
        ("take over", "lift the cube"),
    ]


@pytest.mark.parametrize("outcome", list(Outcome))
def test_an_ending_is_announced_and_holds_and_is_told_once(outcome):
    bench = Bench()
    assignment = bench.begin()
    bench.act(assignment)
    bench.act(assignment)
    bench.passed_s += 4.0
    bench.events.clear()
    bench.end(assignment, outcome, "that is it")
    assert bench.current is None
    assert bench.events == [
        ("announce", ""),
        ("info", f"{outcome}: 'lift the cube': that is it"),
        ("hold", ""),
    ]
    bench.end(assignment, Outcome.ABORTED, "too late")
    assert len(bench.events) == 3
    assert bench.endings == [Ending(outcome, "that is it", 2, 4.0)]
    assert bench.send(assignment) is None


def test_what_is_not_in_force_ends_without_a_hold():
    bench = Bench()
    running, other = bench.begin(), bench.assignment("put it down")
    bench.events.clear()
    bench.end(other, Outcome.REFUSED, "it was too long")
    assert bench.events == []
    assert other.ending.outcome is Outcome.REFUSED
    assert bench.current is running


def test_a_new_instruction_replaces_the_one_before_without_a_hold():
    bench = Bench()
    older = bench.begin("first")
    bench.events.clear()
    newer = bench.begin("second")
    assert (older.ending.outcome, older.ending.message) == (Outcome.PREEMPTED, "replaced by 'second'")
    assert bench.current is newer
    assert newer.ending is None
    assert bench.told("hold") == []
    assert bench.told("announce") == ["second"]
    assert bench.send(older) is None
    assert bench.send(newer) is not None
    bench.end(older)
    assert bench.current is newer


@pytest.mark.parametrize(
    ("active", "words", "why"),
    [(False, "lift the cube", "the policy node is not active"), (True, " \n", "the instruction is empty")],
)
def test_what_cannot_begin_is_refused_and_leaves_everything_as_it_is(active, words, why):
    bench = Bench(active=active)
    assignment = bench.begin(words)
    assert (assignment.ending.outcome, assignment.ending.message) == (Outcome.REFUSED, why)
    assert bench.current is None
    assert bench.events == []


def test_an_empty_goal_does_not_end_the_instruction_in_force():
    bench = Bench()
    running = bench.begin()
    assert bench.begin("").ending.outcome is Outcome.REFUSED
    assert bench.current is running


def test_deactivation_ends_the_instruction_and_lets_none_begin():
    bench = Bench()
    assignment = bench.begin()
    bench.run.deactivate("the policy node was deactivated", bench.now())
    assert (assignment.ending.outcome, assignment.ending.message) == (
        Outcome.ABORTED, "the policy node was deactivated",
    )  # fmt: skip
    assert bench.events[-1] == ("hold", "")
    assert bench.begin().ending.outcome is Outcome.REFUSED
    assert (bench.health().level, bench.health().message) == ("warn", "not active")
    bench.run.activate()
    assert bench.begin().ending is None


def test_deactivation_of_an_idle_node_sends_nothing():
    bench = Bench()
    bench.run.deactivate("the policy node was shut down", bench.now())
    assert bench.events == []


# The controller


def test_nothing_is_acted_on_before_the_controller_gives_the_arm():
    bench = Bench()
    assignment = bench.begin(granted=False)
    assert bench.look(assignment) is None
    assert assignment.refusal == Refusal(
        "not_granted", "the controller has not given the arm to the policy yet"
    )
    bench.run.controller_answered(assignment, None, bench.now())
    assert bench.look(assignment) is bench.moment


@pytest.mark.parametrize("words", ["the e-stop is latched", ""])
def test_a_controller_that_refuses_the_arm_ends_the_instruction(words):
    bench = Bench()
    assignment = bench.begin(granted=False)
    bench.run.controller_answered(assignment, words, bench.now())
    assert (assignment.ending.outcome, assignment.ending.message) == (
        Outcome.REFUSED, f"the controller refuses: {words}",
    )  # fmt: skip
    assert bench.events[-1] == ("hold", "")


def test_an_answer_for_the_instruction_before_gives_nothing_to_the_new_one():
    bench = Bench()
    older, newer = bench.begin("first", granted=False), bench.begin("second", granted=False)
    bench.run.controller_answered(older, None, bench.now())
    assert bench.look(newer) is None
    bench.run.controller_answered(older, "the e-stop is latched", bench.now())
    assert bench.current is newer
    bench.run.controller_answered(newer, None, bench.now())
    assert bench.look(newer) is not None


def test_without_a_controller_to_ask_nobody_waits_for_its_answer():
    bench = Bench()
    bench.controller_there = False
    assignment = bench.begin(granted=False)
    assert bench.look(assignment, listened=False) is None
    assert assignment.refusal.reason == "no_controller"
    assert bench.look(assignment, listened=True) is bench.moment


@pytest.mark.parametrize("reason", ["e_stop", "shut_down"])
def test_a_controller_that_will_not_move_again_ends_the_instruction(reason):
    bench = Bench()
    assignment = bench.begin()
    bench.run.controller_said(reason, "the button", False, bench.now())
    assert (assignment.ending.outcome, assignment.ending.message) == (
        Outcome.ABORTED, f"the controller says {reason}: the button",
    )  # fmt: skip


def test_any_other_verdict_is_only_told_with_the_next_step():
    bench = Bench()
    assignment = bench.begin()
    bench.run.controller_said("workspace", "beyond the table", False, bench.now())
    assert assignment.ending is None
    bench.act(assignment)
    assert (bench.steps[-1].verdict, bench.steps[-1].detail) == ("workspace", "beyond the table")


def test_a_refusal_is_no_sign_that_the_controller_lives():
    bench = Bench()
    assignment = bench.begin()
    bench.run.controller_said("ok", "ok", True, bench.now())
    bench.wait(1.0)
    bench.run.controller_said("too_old", "0.9 s", False, bench.now())
    bench.wait(0.4)
    assert assignment.ending is None
    bench.wait(0.3)
    assert assignment.ending.message == "the controller has been silent for 1.5 s"


def test_a_controller_that_spoke_before_the_instruction_only_is_not_missed():
    bench = Bench()
    bench.run.controller_said("ok", "ok", True, bench.now())
    assignment = bench.begin()
    bench.wait(3.0)
    assert assignment.ending is None


# Images


def test_an_image_from_before_the_instruction_is_not_acted_on():
    bench = Bench()
    bench.passed_s = 10.0
    begun_ns = bench.now().stamp_ns
    assert bench.run.acting_on(begun_ns) is None  # nobody has said what to do
    assignment = bench.begin()
    assert bench.run.acting_on(begun_ns - 1) is None
    assert bench.run.acting_on(begun_ns) is assignment


def test_a_moment_that_cannot_be_observed_is_refused_with_its_reason_and_counted():
    bench = Bench()
    assignment = bench.begin()
    bench.moment = STALE
    assert bench.look(assignment, listened=False) is None
    assert assignment.refusal == STALE
    assert bench.refusals.counts == {"stale_image": 1}
    assert (bench.steps[-1].verdict, bench.steps[-1].step) == ("stale_image", 0)
    assert (bench.health().level, bench.health().message) == ("error", f"not acting: {STALE}")
    bench.act(assignment)
    assert assignment.refusal is None


def test_the_refusal_of_an_instruction_that_is_over_is_counted_and_told_to_nobody():
    bench = Bench()
    older = bench.begin("first")
    newer = bench.begin("second")
    bench.run.refuse(older, STALE)
    assert bench.refusals.counts == {"stale_image": 1}
    assert older.refusal is None
    assert newer.refusal is None
    assert bench.steps == []


def test_without_an_image_the_reason_is_asked_for_again_and_again():
    bench = Bench()
    bench.begin()
    bench.moment = STALE
    bench.wait(0.5)
    assert bench.refusals.counts == {}
    bench.wait(0.1)
    assert bench.refusals.counts == {"stale_image": 1}
    bench.wait(1.0)
    assert 2 <= bench.refusals.counts["stale_image"] <= 3


def test_as_long_as_images_are_acted_on_nobody_asks():
    bench = Bench()
    assignment = bench.begin()
    bench.moment = STALE
    for _ in range(10):
        bench.wait(0.3)
        bench.run.looked(bench.now())
    assert bench.refusals.counts == {}
    assert assignment.ending is None


@pytest.mark.parametrize(("acted", "outcome"), [(False, Outcome.REFUSED), (True, Outcome.ABORTED)])
def test_an_instruction_without_an_image_ends_and_waits_for_a_new_one(acted, outcome):
    bench = Bench()
    assignment = bench.begin(give_up_s=5.0)
    if acted:
        bench.act(assignment)
    bench.moment = STALE
    bench.wait(4.9)
    assert assignment.ending is None
    bench.wait(0.3)
    assert assignment.ending.outcome is outcome
    assert "stale_image: camera 'primary'" in assignment.ending.message
    assert bench.health().message == (
        f"not acting: waiting for a new instruction; {assignment.ending.message}"
    )


def test_a_time_limit_ends_a_goal_as_it_should_and_waits_for_nothing():
    bench = Bench()
    assignment = bench.begin(is_goal=True, time_limit_s=2.0)
    bench.wait(1.9)
    assert assignment.ending is None
    bench.wait(0.2)
    assert assignment.ending.outcome is Outcome.TIME_LIMIT
    assert bench.health().message == "not acting: no instruction has been given"


# Steps, failures, diagnostics


def test_a_step_is_counted_and_reported_with_its_latencies():
    bench = Bench()
    assignment = bench.begin()
    assert bench.send(assignment, inference_s=0.1, image_age_s=0.25) == pytest.approx(0.25)
    assert bench.send(assignment, inference_s=0.2, image_age_s=0.50) == pytest.approx(0.50)
    assert [step.step for step in bench.steps] == [1, 2]
    assert (bench.steps[-1].inference_s, bench.steps[-1].age_s) == (0.2, pytest.approx(0.5))
    assert bench.told("chunk") == ["lift the cube"] * 2
    health = bench.health()
    assert (health.name, health.level, health.message) == ("task", "ok", "step 2 of 'lift the cube'")
    assert health.values == {
        "policy": "hold", "instruction": "lift the cube", "steps": "2", "action_server": "ready",
    }  # fmt: skip
    bench.end(assignment)
    assert bench.health().values == {
        "policy": "hold", "instruction": "", "steps": "", "action_server": "ready",
    }  # fmt: skip


def test_a_chunk_that_cannot_be_published_is_no_step():
    bench = Bench()
    assignment = bench.begin()

    def fails():
        raise RuntimeError("the publisher is gone")

    with pytest.raises(RuntimeError):
        bench.send(assignment, publish=fails)
    assert assignment.steps == 0
    bench.end(assignment)  # the lock was let go
    assert assignment.ending.steps == 0


@pytest.mark.parametrize("running", [True, False])
def test_a_policy_that_breaks_ends_the_instruction_and_waits_for_a_new_one(running):
    bench = Bench()
    assignment = bench.begin()
    if not running:
        bench.end(assignment)
    bench.run.broke(RuntimeError("index out of range"), bench.now())
    message = "the policy failed: RuntimeError: index out of range"
    assert bench.told("error") == [message]
    assert bench.refusals.counts == {"failure": 1}
    assert bench.health().message == f"not acting: waiting for a new instruction; {message}"
    assert assignment.ending.outcome is (Outcome.ABORTED if running else Outcome.CANCELED)
    assert bench.told("hold") == [""]


def test_between_instructions_means_that_none_is_in_force():
    bench = Bench()
    assignment = bench.begin()
    words = "'lift the cube' is being carried out; not now"
    with pytest.raises(PolicyError, match=words), bench.run.between_instructions("not now"):
        pytest.fail("an instruction is in force")
    bench.end(assignment)
    with bench.run.between_instructions("not now"):
        pass
    assert bench.begin().ending is None
