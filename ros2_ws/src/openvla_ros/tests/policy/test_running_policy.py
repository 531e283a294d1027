"""A policy that is asked: it begins with each instruction, and nobody swaps its adapter meanwhile."""

import threading

import pytest
from support.instruction_bench import Bench

from openvla_ros.errors import ModelOutputError, PolicyError
from openvla_ros.policy import running_policy
from openvla_ros.policy.factory import PolicyOptions
from openvla_ros.policy.running_policy import Question, RunningPolicy
from openvla_ros.profile import load_profile

PROFILE = load_profile("sim_widowx")
PATIENCE_S = 10.0


class ScriptedPolicy:
    """Notes what it is asked for; answers with what it was asked, or raises what it is told to."""

    description = "a scripted policy"
    space = PROFILE.space()

    def __init__(self, raises=None):
        self.calls, self.raises = [], raises

    def reset(self):
        self.calls.append("reset")

    def infer(self, observation):
        self.calls.append(observation)
        if self.raises is not None:
            raise self.raises
        return observation

    def close(self):
        self.calls.append("close")


class PreparingPolicy(ScriptedPolicy):
    """Takes its time for the first instruction, and none for later ones."""

    def prepare(self, instruction):
        self.calls.append(f"prepare {instruction}")
        return len([c for c in self.calls if c.startswith("prepare")]) == 1

    def report(self):
        return {"stages": "3"}


class Moments:
    """A moment whose observation is a word."""

    def observe(self, forward):
        return f"seen with {forward}"


def make(policy):
    bench = Bench()
    return bench, RunningPolicy(policy, bench.run, "forward kinematics", bench.now, bench)


def question(assignment):
    return Question(assignment, Moments())


def test_each_instruction_begins_with_a_reset_and_the_answers_follow():
    policy = ScriptedPolicy()
    bench, running = make(policy)
    first = bench.begin("first")
    assert running.ask(question(first)) == "seen with forward kinematics"
    assert running.ask(question(first)) is not None
    running.ask(question(bench.begin("second")))
    seen = "seen with forward kinematics"
    assert policy.calls == ["reset", seen, seen, "reset", seen]


def test_an_image_that_has_aged_while_stages_were_recorded_is_not_acted_on():
    policy = PreparingPolicy()
    bench, running = make(policy)
    first = bench.begin("first")
    assert running.ask(question(first)) is None
    assert policy.calls == ["reset", "prepare first"]
    assert "first prompt of the length of 'first': preparing for it took" in bench.told("info")[-1]
    assert running.ask(question(first)) is not None
    assert running.ask(question(bench.begin("second"))) is not None
    assert policy.calls[-3:-1] == ["reset", "prepare second"]


def test_what_a_policy_reports_is_shown_where_it_reports():
    assert make(PreparingPolicy())[1].report() == {"stages": "3"}
    assert make(ScriptedPolicy())[1].report() == {}
    assert make(ScriptedPolicy())[1].description == "a scripted policy"


def test_a_question_that_fails_is_a_refusal_and_counts_towards_a_silence():
    policy = ScriptedPolicy(raises=ModelOutputError("no end of sequence"))
    bench, running = make(policy)
    assignment = bench.begin()
    assert running.ask(question(assignment)) is None
    assert str(assignment.refusal) == "model_output: no end of sequence"
    assert bench.refusals.counts == {"model_output": 1}
    bench.wait(1.0)
    assert "the policy did not answer for 0.70 s" in assignment.ending.message


def test_what_a_policy_should_not_raise_passes_and_leaves_it_usable():
    policy = ScriptedPolicy(raises=RuntimeError("index out of range"))
    bench, running = make(policy)
    assignment = bench.begin()
    with pytest.raises(RuntimeError):
        running.ask(question(assignment))
    policy.raises = None
    assert running.ask(question(assignment)) is not None


def test_a_late_answer_ends_its_instruction():
    policy = ScriptedPolicy()
    bench, running = make(policy)
    assignment = bench.begin()
    running.ask(question(assignment))
    swift = policy.infer

    def slow(observation):
        bench.passed_s += 1.0
        return swift(observation)

    policy.infer = slow
    running.ask(question(assignment))
    assert assignment.ending.message == "the policy did not answer for 1.00 s; the limit is 0.6 s"


def test_an_adapter_waits_for_the_inference_in_progress_and_the_next_question_is_the_new_ones(monkeypatch):
    inferring, may_end = threading.Event(), threading.Event()

    class SlowPolicy(ScriptedPolicy):
        def infer(self, observation):
            inferring.set()
            assert may_end.wait(PATIENCE_S)
            return super().infer(observation)

    old, new = SlowPolicy(), ScriptedPolicy()
    bench, running = make(old)
    swaps = []

    def swap(policy, options, profile):
        swaps.append((policy, options.adapter, profile, list(old.calls)))
        return new

    monkeypatch.setattr(running_policy, "reload_adapter", swap)
    assignment = bench.begin()
    asking = threading.Thread(target=running.ask, args=(question(assignment),), daemon=True)
    asking.start()
    assert inferring.wait(PATIENCE_S)
    bench.end(assignment)
    options = PolicyOptions("openvla", adapter="tidy")
    swapping = threading.Thread(target=running.reload_adapter, args=(options, PROFILE), daemon=True)
    swapping.start()
    swapping.join(0.1)
    assert swapping.is_alive()
    assert swaps == []
    may_end.set()
    for thread in (asking, swapping):
        thread.join(PATIENCE_S)
    assert swaps == [(old, "tidy", PROFILE, ["reset", "seen with forward kinematics"])]
    running.ask(question(bench.begin("second")))
    assert new.calls == ["reset", "seen with forward kinematics"]
    running.close()
    assert new.calls[-1] == "close"


def test_no_adapter_is_taken_beside_an_instruction_and_a_failed_swap_changes_nothing(monkeypatch):
    policy = ScriptedPolicy()
    bench, running = make(policy)

    def fails(*arguments):
        raise PolicyError("it does not fit")

    monkeypatch.setattr(running_policy, "reload_adapter", fails)
    assignment = bench.begin()
    with pytest.raises(
        PolicyError, match="'lift the cube' is being carried out; adapters are swapped only while"
    ):
        running.reload_adapter(PolicyOptions("openvla"), PROFILE)
    bench.end(assignment)
    with pytest.raises(PolicyError, match="it does not fit"):
        running.reload_adapter(PolicyOptions("openvla"), PROFILE)
    assert running.ask(question(bench.begin())) is not None
    assert running.description == "a scripted policy"
