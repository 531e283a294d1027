"""Keeps a library from running this process ahead of everything else on the machine.

As root, as in most ROS containers, SVT-AV1 (PyAV 18.1.0) puts the thread that opens its encoder, and its
own threads, under SCHED_FIFO at priority 99. They would then run before a control loop, and so would
every process started afterwards, because the policy is inherited.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TASKS = Path("/proc/self/task")
_REAL_TIME = (os.SCHED_FIFO, os.SCHED_RR) if hasattr(os, "SCHED_FIFO") else ()


@contextmanager
def kept_scheduling() -> Iterator[None]:
    """Give the calling thread its scheduling policy back at the end, and new threads the ordinary one.

    Threads that were there before are not touched: another of them may be in such a block as well. Does
    nothing where the system has no such policies.
    """
    if not _REAL_TIME or not _TASKS.is_dir():
        yield
        return
    before, own = _threads(), threading.get_native_id()
    own_before = _policy(own)
    try:
        yield
    finally:
        if _policy(own) != own_before:
            os.sched_setscheduler(own, own_before[0], os.sched_param(own_before[1]))
        for thread in _threads() - before - {own}:
            with suppress(ProcessLookupError):  # it has ended meanwhile
                if _policy(thread)[0] in _REAL_TIME:
                    os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def _policy(thread: int) -> tuple[int, int]:
    """Return scheduling policy and real-time priority of a thread."""
    return os.sched_getscheduler(thread), os.sched_getparam(thread).sched_priority


def _threads() -> set[int]:
    """Return the threads of this process.

    The kernel ends a listing early when the thread that it has reached ends meanwhile: two listings that
    agree are complete.
    """
    previous, found = None, set[int]()
    while found != previous:
        previous, found = found, {int(task.name) for task in _TASKS.iterdir()}
    return found
