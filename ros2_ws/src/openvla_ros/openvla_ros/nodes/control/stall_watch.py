"""Explains why the control loop stalled, from the kernel's and the interpreter's statistics.

Each period the thread's counters are read (about 10 microseconds); after a long one the difference shows
where the time went: waiting for a CPU, for the controller's lock, for pages from disk, in the garbage
collector, in other threads of the process, or in the loop's own work. If none of them explains it, the
process did not run at all.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from openvla_ros.values.time import seconds

# A cause is named if it explains at least this share of the stall.
SHARE = 0.2


@dataclass(frozen=True)
class Accounts:
    """Running totals; seconds unless they are counts."""

    wall: float
    computing: float  # processor time of the control thread
    process: float  # processor time of all threads
    ready: float  # the control thread could have run, and no processor was free
    ready_callbacks: float  # the same for the thread that serves callbacks
    collecting: float
    disk_faults: int
    preempted: int  # involuntary context switches


@dataclass(frozen=True)
class Cause:
    """One cause of a stall, as text, with a remedy."""

    seconds: float
    text: str
    remedy: str


class StallWatch:
    """Reads the counters of the thread that calls ``lap``."""

    def __init__(self, long_s: float, collecting_s: Callable[[], float] = lambda: 0.0) -> None:
        """``long_s``: a lap longer than this is a stall. ``collecting_s``: total time of the collector."""
        self._long_s, self._collecting_s = long_s, collecting_s
        self._before: Accounts | None = None
        self._delays: tuple[int, int] | None = None
        self.newest = ""  # the diagnosis of the last stall
        self.count = 0

    def lap(self, waited_s: float = 0.0) -> str:
        """Return why the time since the previous call was long; empty if it was not.

        ``waited_s`` is how long the caller has just waited for the controller's lock.
        """
        before, now = self._before, self._read()
        self._before = now
        if before is None or now.wall - before.wall < self._long_s:
            return ""
        self.count += 1
        self.newest = explain(before, now, waited_s)
        return self.newest

    def close(self) -> None:
        """Close the files."""
        for file in self._delays or ():
            os.close(file)
        self._delays = None

    def _read(self) -> Accounts:
        if self._delays is None:
            self._delays = _open_delays()
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        ready, ready_callbacks = (_run_delay_s(file) for file in self._delays)
        return Accounts(
            time.monotonic(),
            usage.ru_utime + usage.ru_stime,
            time.process_time(),
            ready,
            ready_callbacks,
            self._collecting_s(),
            usage.ru_majflt,
            usage.ru_nivcsw,
        )


def explain(before: Accounts, now: Accounts, waited_s: float) -> str:
    """Return where the time between two readings went, the largest share first, with remedies."""
    gap_s = now.wall - before.wall
    causes = [c for c in _causes(before, now, waited_s) if c.seconds >= SHARE * gap_s]
    faults = now.disk_faults - before.disk_faults
    if faults:
        text = f"{faults} page{'s' if faults > 1 else ''} had to be read from disk"
        causes.append(Cause(0.0, text, "free memory, or permit locked memory"))
    if not causes:
        return "the process did not run: it, or the whole machine, was suspended"
    causes.sort(key=lambda cause: -cause.seconds)
    remedies = dict.fromkeys(cause.remedy for cause in causes if cause.remedy)
    return "; ".join([", ".join(cause.text for cause in causes), *remedies])


def _causes(before: Accounts, now: Accounts, waited_s: float) -> list[Cause]:
    ready = now.ready - before.ready
    ready_callbacks = now.ready_callbacks - before.ready_callbacks
    computing = now.computing - before.computing
    collecting = now.collecting - before.collecting  # on the control thread (``GarbageRounds``)
    own = computing - collecting
    others = now.process - before.process - computing
    preempted = now.preempted - before.preempted
    busy = "stop other programs, or permit real-time priority (docs/safety.md)"
    smaller = "send smaller messages, or fewer"
    causes = [
        Cause(ready, f"{ready:.3f} s without a CPU, preempted {preempted} times", busy),
        Cause(waited_s, f"{waited_s:.3f} s waiting for another thread in the controller's core", ""),
        Cause(collecting, f"{collecting:.3f} s of garbage collection", ""),
        Cause(own, f"{own:.3f} s of its own work", ""),
        Cause(others, f"{others:.3f} s of callbacks", smaller),
    ]
    if ready < ready_callbacks:
        text = f"{ready_callbacks:.3f} s of the callback thread without a CPU"
        causes.append(Cause(ready_callbacks, text, busy))
    return causes


def _open_delays() -> tuple[int, int]:
    """Open the scheduler statistics of this thread and of the main thread."""
    paths = (
        f"/proc/self/task/{threading.get_native_id()}/schedstat",
        f"/proc/self/task/{os.getpid()}/schedstat",
    )
    return _open(paths[0]), _open(paths[1])


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError:  # a kernel without these accounts: the share is not known
        return -1


def _run_delay_s(file: int) -> float:
    """Return how long that thread was runnable but not running, seconds."""
    return seconds(int(os.pread(file, 96, 0).split()[1])) if file >= 0 else 0.0
