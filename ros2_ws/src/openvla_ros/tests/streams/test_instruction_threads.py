"""However threads meet, nothing goes out after an instruction's ending."""

import sys
import threading
import time

import pytest
from support.instruction_bench import Bench

from openvla_ros.streams.assignment import Outcome

# How long a thread that must wait is watched waiting, and how long one may take that must not.
WATCHED_S, PATIENCE_S = 0.1, 10.0


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
