"""Threads of this process that run before everything else on the machine."""

import os
from contextlib import suppress
from pathlib import Path

_POLICIES = (os.SCHED_FIFO, os.SCHED_RR)


def real_time_threads() -> dict[int, str]:
    """Return the threads of this process under a real-time policy: names by number."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError, FileNotFoundError):  # it has ended meanwhile
            if os.sched_getscheduler(int(task.name)) & ~os.SCHED_RESET_ON_FORK in _POLICIES:
                found[int(task.name)] = (task / "comm").read_text().strip()
    return found
