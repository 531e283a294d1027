"""Stop signals, handled before anything else: a node's imports alone take seconds.

Until a node is running there is nothing to bring to rest: a signal ends the process at once with exit code
0. Then ``ros/process.py`` takes over. To leave no gap, a parent starts the process with the signals
blocked, as ``openvla up`` does: those that arrived since the start are then delivered here. Imports only
the standard library.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def hold_back() -> None:
    """Block stop signals, in this process and in the program it execs, until ``let_through`` is called."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def let_through() -> None:
    """Unblock stop signals: deliver pending and future ones."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def end_at_once() -> None:
    """From now on, exit with code 0 on a stop signal: nothing is running yet."""
    for number in STOP_SIGNALS:
        signal.signal(number, _end)
    let_through()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP (a closed terminal, a lost connection) interrupt the block as Ctrl-C does."""
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # once: what it interrupts must be able to end in order
    raise KeyboardInterrupt


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)
