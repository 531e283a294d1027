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
    before, own = _policies(), threading.get_native_id()
    try:
        yield
    finally:
        for thread, current in _policies().items():
            if thread in before and thread != own:
                continue
            wanted = before.get(thread, (os.SCHED_OTHER, 0))
            if current[0] in _REAL_TIME and current != wanted:
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    os.sched_setscheduler(thread, wanted[0], os.sched_param(wanted[1]))


def _policies() -> dict[int, tuple[int, int]]:
    """Return scheduling policy and real-time priority of each thread of this process."""
    found: dict[int, tuple[int, int]] = {}
    if not _REAL_TIME or not _TASKS.is_dir():
        return found
    for task in _TASKS.iterdir():
        with suppress(ProcessLookupError):
            thread = int(task.name)
            found[thread] = os.sched_getscheduler(thread), os.sched_getparam(thread).sched_priority
    return found
