"""Real-time settings of this process: real-time priority, niceness, locked memory.

Each function requests one and returns as text, for diagnostics, whether the kernel granted it.
docs/safety.md explains how to permit them.
"""

from __future__ import annotations

import ctypes
import os
import resource
import threading
from pathlib import Path

# A stop goes before the next command, both before ordinary programs; kernel threads are at 50.
CONTROL_PRIORITY, STOP_PRIORITY = 40, 41
# For the threads that must not wait for other programs either: DDS's own, and the one that holds the
# interpreter when a stop comes.
NICENESS = -10
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4  # <sys/mman.h>; on fault: what is touched stays


def ask_for_realtime(priority: int) -> str:
    """Request real-time priority for this thread; return as text what was granted.

    Threads and processes that it starts do not inherit it: DDS and other libraries start some of theirs,
    one that writes log lines for example, from whichever thread first needs them.
    """
    try:
        policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(threading.get_native_id(), policy, os.sched_param(priority))
    except PermissionError:
        return "ordinary (real-time priority needs CAP_SYS_NICE or an rtprio limit)"
    except (AttributeError, OSError) as error:
        return f"ordinary ({error})"
    return f"real-time, priority {priority}"


def ask_for_niceness(niceness: int = NICENESS) -> str:
    """Request a better niceness for all threads of this process; return as text what was granted."""
    try:
        for task in Path("/proc/self/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(task.name), niceness)
    except PermissionError:
        return "0 (a better one needs CAP_SYS_NICE or a nice limit)"
    except OSError as error:
        return f"0 ({error})"
    return str(niceness)


def lock_memory() -> str:
    """Request that this process's pages stay in memory once touched; return as text what was granted.

    With a memlock limit nothing is locked: once the limit is reached, allocations would fail.
    """
    try:
        library = ctypes.CDLL(None, use_errno=True)
        unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
        if not unlimited and not _may_lock():
            return "not locked (needs CAP_IPC_LOCK or an unlimited memlock limit)"
        if library.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0:
            return f"not locked ({os.strerror(ctypes.get_errno())})"
    except (AttributeError, OSError) as error:
        return f"not locked ({error})"
    return "locked"


def _may_lock() -> bool:
    """Whether this process has CAP_IPC_LOCK (bit 14), which lifts the limit."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> 14 & 1)
    return False
