"""From its beginning to its one ending, an instruction obeys its rules; nothing goes out after the ending."""

import sys
import threading
import time

import pytest
from support.instruction_bench import LIMITS, STALE, Bench

from openvla_ros.errors import PolicyError
from openvla_ros.streams.assignment import Ending, Outcome
from openvla_ros.streams.buffer import Refusal
from openvla_ros.streams.instruction_run import RunLimits

# How long a thread that must wait is watched waiting, and how long one may take that must not.
WATCHED_S, PATIENCE_S = 0.1, 10.0


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


# The topic


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
    bench.passed_s += 1.0
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
        Outcome.ABORTED, "an empty instruction came in by topic",
    )  # fmt: skip
    assert bench.events[-1] == ("hold", "")
    assert bench.health().message == "does not act: nobody has said what to do"
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
        "warn", f"does not act: waits for a new instruction; {why}",
    )  # fmt: skip
    bench.say("lift the cube", latched=True)
    assert bench.current is not None
    bench.end(bench.current)
    assert bench.health().message == "does not act: nobody has said what to do"


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
    assert bench.health().message == "does not act: nobody has said what to do"


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
    assert (bench.health().level, bench.health().message) == ("error", f"does not act: {STALE}")
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
        f"does not act: waits for a new instruction; {assignment.ending.message}"
    )


def test_a_time_limit_ends_a_goal_as_it_should_and_waits_for_nothing():
    bench = Bench()
    assignment = bench.begin(is_goal=True, time_limit_s=2.0)
    bench.wait(1.9)
    assert assignment.ending is None
    bench.wait(0.2)
    assert assignment.ending.outcome is Outcome.TIME_LIMIT
    assert bench.health().message == "does not act: nobody has said what to do"


# What was away for too long


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
    assert bench.health().message == f"does not act: waits for a new instruction; {why}"
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
    assert bench.health().message == "does not act: nobody has said what to do"
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
    assert bench.health().message == f"does not act: waits for a new instruction; {message}"
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


# Two threads


class Gate:
    """Somewhere a thread stops: it says that it is there, and waits to be let through."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self):
        self.reached.set()
        assert self.opened.wait(PATIENCE_S)


def in_thread(act):
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def is_stuck(thread):
    thread.join(WATCHED_S)
    return thread.is_alive()


def test_an_ending_waits_for_the_chunk_that_is_going_out_and_holds_after_it():
    bench, gate, ages = Bench(), Gate(), []
    assignment = bench.begin()
    bench.events.clear()

    def publish():
        gate()
        bench.events.append(("chunk", assignment.instruction))

    sender = in_thread(lambda: ages.append(bench.send(assignment, publish=publish)))
    assert gate.reached.wait(PATIENCE_S)
    ender = in_thread(lambda: bench.end(assignment))
    assert is_stuck(ender)
    assert bench.events == []
    gate.opened.set()
    for thread in (sender, ender):
        thread.join(PATIENCE_S)
    assert [kind for kind, _ in bench.events] == ["chunk", "announce", "info", "hold"]
    assert ages == [pytest.approx(0.2)]
    assert assignment.ending.steps == 1
    assert bench.send(assignment) is None


@pytest.mark.parametrize("where", ["announce", "hold"])
def test_a_chunk_that_comes_during_an_ending_does_not_go_out(where):
    bench, gate, ages = Bench(), Gate(), []
    assignment = bench.begin()
    whole = getattr(bench, where)
    setattr(bench, where, lambda *arguments: (gate(), whole(*arguments)))
    ender = in_thread(lambda: bench.end(assignment))
    assert gate.reached.wait(PATIENCE_S)
    sender = in_thread(lambda: ages.append(bench.send(assignment)))
    assert is_stuck(sender)
    gate.opened.set()
    for thread in (sender, ender):
        thread.join(PATIENCE_S)
    assert ages == [None]
    assert bench.told("chunk") == []


def test_a_chunk_that_comes_while_another_instruction_begins_does_not_go_out():
    bench, gate, ages = Bench(), Gate(), []
    older = bench.begin("first")
    whole = bench.announce
    bench.announce = lambda words: (gate(), whole(words))
    beginner = in_thread(lambda: bench.begin("second"))
    assert gate.reached.wait(PATIENCE_S)
    sender = in_thread(lambda: ages.append(bench.send(older)))
    assert is_stuck(sender)
    gate.opened.set()
    for thread in (sender, beginner):
        thread.join(PATIENCE_S)
    assert ages == [None]
    assert bench.current.instruction == "second"


def test_the_clock_is_read_after_the_wait_for_the_lock():
    """A process that is suspended while its chunk waits must not send it afterwards."""
    bench, gate, ages = Bench(), Gate(), []
    assignment = bench.begin()
    bench.tick()
    reader = in_thread(lambda: bench.send(assignment, publish=gate))
    assert gate.reached.wait(PATIENCE_S)
    sender = in_thread(lambda: ages.append(bench.send(assignment)))
    assert is_stuck(sender)
    bench.passed_s += 6.0
    gate.opened.set()
    for thread in (reader, sender):
        thread.join(PATIENCE_S)
    assert ages == [None]


def test_nothing_begins_while_somebody_works_between_instructions():
    bench = Bench()
    with bench.run.between_instructions("not now"):
        beginner = in_thread(bench.begin)
        assert is_stuck(beginner)
        assert bench.current is None
    beginner.join(PATIENCE_S)
    assert bench.current is not None


def test_two_threads_that_end_the_same_instruction_end_it_once():
    bench, gate = Bench(), Gate()
    assignment = bench.begin()
    whole = bench.hold
    bench.hold = lambda: (gate(), whole())
    first = in_thread(lambda: bench.end(assignment, Outcome.ABORTED, "first"))
    assert gate.reached.wait(PATIENCE_S)
    second = in_thread(lambda: bench.end(assignment, Outcome.CANCELED, "second"))
    assert is_stuck(second)
    gate.opened.set()
    for thread in (first, second):
        thread.join(PATIENCE_S)
    assert [ending.message for ending in bench.endings] == ["first"]
    assert bench.told("hold") == [""]


@pytest.fixture
def busy_interpreter():
    """Threads that take turns a hundred times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(before)


def test_however_a_chunk_and_an_ending_meet_the_hold_comes_last(busy_interpreter):
    for round_ in range(100):
        bench = Bench()
        assignment = bench.begin()
        under_way = threading.Event()

        def send_until_it_is_over(bench=bench, assignment=assignment, under_way=under_way):
            while bench.send(assignment) is not None:
                under_way.set()

        sender = in_thread(send_until_it_is_over)
        assert under_way.wait(PATIENCE_S)
        time.sleep(1e-5 * (round_ % 10))
        bench.end(assignment)
        sender.join(PATIENCE_S)
        assert not sender.is_alive()
        assert bench.events[-1] == ("hold", "")
        assert len(bench.told("chunk")) == assignment.ending.steps
