"""The lock around the controller's core: a stop goes first, and an exception inside it stops the arm.

The core is used by the executor's callbacks and by the control thread. An ordinary lock is not fair: under
a flood of messages the executor may take it again and again before a waiting thread runs. Here a stop is
queued next to the lock, and the next holder executes it before its own work. So a stop waits at most for
the work in progress, never for a message.

An exception in the middle of a change leaves the core in an undefined state. The arm is then brought to
rest and held there, before anyone else gets the lock.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

from openvla_ros.errors import FatalNodeError
from openvla_ros.values.verdict import SafetyVerdict

# How long a stop waits for the lock's holder to execute it before it tries the lock itself again.
RETRY_S = 0.001


class _Stop:
    """One stop: the action, and its result."""

    def __init__(self, act: Callable[[], SafetyVerdict]) -> None:
        self._act = act
        self.done = threading.Event()
        self.verdict: SafetyVerdict | None = None
        self.error: BaseException | None = None

    def carry_out(self) -> None:
        """Execute it; an exception is raised in the requesting thread, not in the one that holds the lock."""
        try:
            self.verdict = self._act()
        except Exception as error:  # noqa: BLE001 - handed on to the thread that asked
            self.error = error
        self.done.set()


class CoreLock:
    """``with lock:`` around every use of the core; ``stop`` goes before all waiting threads.

    ``broken`` is called with an exception that was raised inside, with the lock held; the exception then
    propagates. If ``broken`` raises too, the process must end: that is a ``FatalNodeError``.
    """

    def __init__(self, broken: Callable[[BaseException], object]) -> None:
        self._lock = threading.Lock()
        self._broken = broken
        self._stops: deque[_Stop] = deque()
        # How long the newest ``with`` waited, by thread, in seconds; for the report of a stall.
        self._waited_s: dict[int, float] = {}

    def stop(self, act: Callable[[], SafetyVerdict]) -> SafetyVerdict:
        """Run ``act`` inside the lock, before all waiting threads; return its verdict.

        An exception in ``act`` is raised here.
        """
        stop = _Stop(act)
        self._stops.append(stop)
        while not stop.done.is_set():
            if self._lock.acquire(timeout=RETRY_S):
                try:
                    self._carry_out()
                finally:
                    self._lock.release()
        if stop.error is not None:
            with self:
                raise stop.error
        assert stop.verdict is not None
        return stop.verdict

    def waited_s(self) -> float:
        """Return how long this thread waited for the lock when it last entered, seconds."""
        return self._waited_s.get(threading.get_ident(), 0.0)

    def _carry_out(self) -> None:
        while self._stops:
            self._stops.popleft().carry_out()

    def __enter__(self) -> None:
        since = time.perf_counter()
        self._lock.acquire()
        self._waited_s[threading.get_ident()] = time.perf_counter() - since
        self._carry_out()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = error is None
        try:
            if error is not None:
                self._broken(error)
                stopped = True
        finally:
            self._lock.release()
            if not stopped:
                raise FatalNodeError(f"the arm could not be held after {type(error).__name__}: {error}")
