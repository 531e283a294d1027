"""The control loop keeps the collector out of its periods, and says why it stalled."""

import gc
import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from support.waiting import wait_until

from openvla_ros.nodes.control import realtime
from openvla_ros.nodes.control.garbage_rounds import GarbageRounds
from openvla_ros.nodes.control.stall_watch import Accounts, StallWatch, explain

BEFORE = Accounts(10.0, 1.0, 5.0, 0.1, 0.2, 0.01, 3, 7)


def after(**changes: float) -> Accounts:
    """Return the accounts 0.2 s later, with these differences."""
    differences = {"wall": 0.2, **changes}
    return replace(BEFORE, **{key: getattr(BEFORE, key) + value for key, value in differences.items()})


@pytest.mark.parametrize(
    ("changes", "waited_s", "words"),
    [
        ({"ready": 0.18, "preempted": 4}, 0.0, "0.180 s without a CPU, preempted 4 times"),
        ({"ready": 0.18}, 0.0, "permit real-time priority"),
        ({"ready_callbacks": 0.15}, 0.0, "0.150 s of the callback thread without a CPU"),
        ({"collecting": 0.09, "computing": 0.1, "process": 0.1}, 0.0, "0.090 s of garbage collection"),
        ({"process": 0.19}, 0.0, "0.190 s of callbacks; send smaller messages"),
        ({"computing": 0.17, "process": 0.17}, 0.0, "0.170 s of its own work"),
        ({"process": 0.19}, 0.18, "0.180 s waiting for another thread in the controller's core"),
        ({"disk_faults": 2}, 0.0, "2 pages had to be read from disk; free memory"),
        ({}, 0.0, "it, or the whole machine, was suspended"),
    ],
)
def test_where_the_time_went_is_said(changes, waited_s, words):
    assert words in explain(BEFORE, after(**changes), waited_s)


def test_the_largest_share_comes_first_and_small_ones_are_left_out():
    said = explain(BEFORE, after(ready=0.05, process=0.14, computing=0.01, collecting=0.01), 0.0)
    assert said.startswith("0.130 s of callbacks, 0.050 s without a CPU")
    assert "garbage" not in said


def test_a_thread_that_computed_too_long_says_so():
    watch = StallWatch(0.05)

    def after_work():
        watch.lap()
        end = time.thread_time() + 0.1
        while time.thread_time() < end:
            pass
        return watch.lap()

    assert watch.lap() == ""
    # On a busy machine the time without a CPU may be many times as long as the work.
    assert wait_until(lambda: "of its own work" in after_work())
    assert "of its own work" in watch.newest
    watch.close()


def test_the_collector_runs_when_told_to_and_is_given_back():
    rounds = GarbageRounds()
    rounds.start()
    try:
        assert not gc.isenabled()
        gc.collect()
        assert rounds.total_s > 0.0
        assert rounds.longest_s <= rounds.total_s
    finally:
        rounds.stop()
    assert gc.isenabled()


LOOP = """
import gc, json, os, time
from openvla_ros.nodes.control.control_loop import ControlLoop
from rclpy.clock import Clock, ClockType

loop = ControlLoop(0.01, lambda: None, Clock(clock_type=ClockType.STEADY_TIME), False)
loop.start()
files = len(os.listdir("/proc/self/fd"))
time.sleep(0.1)
values, collecting = loop.health().values, gc.isenabled()
said = {"values": values, "collecting": collecting, "ended": loop.stop(), "given_back": gc.isenabled()}
loop.hurry()  # too late, and no error
said["closed"] = files - len(os.listdir("/proc/self/fd"))
print(json.dumps(said))
"""


def test_the_loop_says_what_the_kernel_granted_and_gives_the_collector_back():
    # In a process of its own: what is granted here would be granted to every test after it.
    done = subprocess.run(
        [sys.executable, "-c", LOOP], capture_output=True, text=True, timeout=60, check=True
    )
    said = json.loads(done.stdout)
    assert not said["collecting"]
    assert said["ended"]
    assert said["given_back"]
    assert said["closed"] >= 1
    values = said["values"]
    assert values["scheduling"].startswith(("real-time", "ordinary"))
    assert values["memory"].startswith(("locked", "not locked"))
    assert values["niceness"]


HURRIED = """
import json, threading, time
from openvla_ros.nodes.control.control_loop import ControlLoop
from rclpy.clock import Clock, ClockType

PERIOD_S, RUN_S = 0.05, 2.0
began = []  # when each period began, and when it was due, seconds
loop = ControlLoop(
    PERIOD_S,
    lambda: began.append((time.monotonic(), time.monotonic() + 1e-9 * loop.early_ns)),
    Clock(clock_type=ClockType.STEADY_TIME),
    False,
)
loop.start()
asked, answered = [], []
end = time.monotonic() + RUN_S
while time.monotonic() < end:
    time.sleep(1.3 * PERIOD_S)
    asked.append(time.monotonic())
    loop.hurry()
loop.stop()
took = [min(at for at, _ in began if at > since) - since for since in asked[:-1]]
print(json.dumps({"began": began, "took": took, "stalls": loop.health().values["stalls"]}))
"""


def test_a_hurried_period_begins_at_once_and_moves_no_deadline():
    done = subprocess.run(
        [sys.executable, "-c", HURRIED], capture_output=True, text=True, timeout=60, check=True
    )
    said = json.loads(done.stdout)
    began, due = np.array(said["began"]).T
    # Of 50 ms periods; each request would wait 25 ms on average, and no request comes twice in a period.
    assert np.median(said["took"]) < 0.01
    assert (due - began).max() > 0.01
    periods = np.diff(due) / 0.05
    assert np.median(np.abs(periods - 1.0)) < 0.1
    assert len(began) == pytest.approx((due[-1] - due[0]) / 0.05 + 1, abs=3)  # none lost, none added
    assert (due - began).max() <= 0.05


STARTED = """
import json, os, subprocess, sys, threading
from openvla_ros.nodes.control.realtime import ask_for_realtime

said = {"granted": ask_for_realtime(40).startswith("real-time")}

def look():
    said["thread"] = os.sched_getscheduler(0)

thread = threading.Thread(target=look)
thread.start()
thread.join()
said["own"] = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
child = [sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"]
said["process"] = int(subprocess.run(child, capture_output=True, check=True).stdout)
print(json.dumps(said))
"""


def test_what_a_real_time_thread_starts_is_ordinary():
    done = subprocess.run(
        [sys.executable, "-c", STARTED], capture_output=True, text=True, timeout=60, check=True
    )
    said = json.loads(done.stdout)
    if not said["granted"]:
        pytest.skip("this user may not ask for real-time priority")
    assert (said["own"], said["thread"], said["process"]) == (os.SCHED_FIFO, os.SCHED_OTHER, os.SCHED_OTHER)


def test_without_permission_nothing_is_locked_and_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(realtime, "_may_lock", lambda: False)
    monkeypatch.setattr(realtime.resource, "getrlimit", lambda _: (8 << 20, 8 << 20))
    assert "unlimited memlock" in realtime.lock_memory()

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    monkeypatch.setattr(os, "setpriority", refuse)
    assert "rtprio" in realtime.ask_for_realtime(40)
    assert "nice limit" in realtime.ask_for_niceness()
