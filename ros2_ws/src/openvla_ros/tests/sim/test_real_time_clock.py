"""Simulated time waits for whoever commands, and for nobody else."""

import threading
import time

import pytest

from openvla_ros.sim import real_time_clock
from openvla_ros.sim.real_time_clock import LockStep

SHORT_S, LONG_S = 0.1, 60.0


@pytest.fixture
def lock():
    return LockStep(slack_s=0.03)


def waits_out(lock, elapsed_s, silence_s, monkeypatch):
    """Whether time stands at ``elapsed_s`` for as long as a silence may last."""
    monkeypatch.setattr(real_time_clock, "LONGEST_SILENCE_S", silence_s)
    began = time.monotonic()
    lock.wait(elapsed_s)
    return time.monotonic() - began >= silence_s


def test_nobody_is_waited_for_before_the_first_command(lock, monkeypatch):
    assert not waits_out(lock, 100.0, LONG_S, monkeypatch)


def test_time_goes_on_within_the_slack_and_stands_beyond_it_until_the_next_command(lock, monkeypatch):
    lock.commanded(1.0)
    assert not waits_out(lock, 1.02, LONG_S, monkeypatch)
    passed = threading.Event()
    ahead = threading.Thread(target=lambda: (lock.wait(1.031), passed.set()))
    ahead.start()
    assert not passed.wait(SHORT_S)
    lock.commanded(1.02)
    assert passed.wait(LONG_S / 2)
    ahead.join()


def test_a_silence_is_waited_out_once_and_the_next_command_is_waited_for_again(lock, monkeypatch):
    lock.commanded(1.0)
    assert waits_out(lock, 2.0, SHORT_S, monkeypatch)
    assert not waits_out(lock, 3.0, LONG_S, monkeypatch)
    lock.commanded(3.0)
    assert waits_out(lock, 4.0, SHORT_S, monkeypatch)
