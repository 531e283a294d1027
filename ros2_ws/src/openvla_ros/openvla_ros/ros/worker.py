"""Work outside the executor's thread: a slot with the newest value, and a thread that takes it.

A callback puts, the worker takes; a value that was not taken in time is replaced, so nothing queues and the
newest always wins. Knows nothing of ROS.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class LatestValue(Generic[T]):
    """A slot for one value. ``replaced`` counts the values that were not taken."""

    def __init__(self) -> None:
        self._value: T | None = None
        self._ready = threading.Condition()
        self._closed = False
        self.replaced = 0

    def put(self, value: T) -> None:
        """Offer ``value``; an older one that was not taken is dropped."""
        with self._ready:
            self.replaced += self._value is not None
            self._value = value
            self._ready.notify()
        # Let go of the interpreter, so that a waiting thread starts now and not when this one waits.
        time.sleep(0)

    def renew(self, value: T) -> bool:
        """Replace a waiting value with ``value``; return False if none is waiting."""
        with self._ready:
            waiting = self._value is not None
            if waiting:
                self._value = value
                self.replaced += 1
            return waiting

    def take(self, timeout_s: float) -> T | None:
        """Return the newest value, or ``None`` after ``timeout_s`` seconds or once closed."""
        with self._ready:
            self._ready.wait_for(lambda: self._value is not None or self._closed, timeout_s)
            value, self._value = self._value, None
            return value

    @property
    def occupied(self) -> bool:
        """Whether a value is waiting."""
        with self._ready:
            return self._value is not None

    def clear(self) -> None:
        """Drop a value that is waiting."""
        with self._ready:
            self._value = None

    def close(self) -> None:
        """Wake waiting threads; from now on ``take`` returns at once."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()


class Worker(Generic[T]):
    """A thread that calls ``work`` with the newest value offered through ``put``.

    ``failed`` is called with any exception of ``work``, on the worker's thread; the worker continues.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[T], None],
        failed: Callable[[Exception], None],
        finish: Callable[[], None] | None = None,
    ) -> None:
        """Start the thread; ``finish`` is called last, on it: for resources bound to one thread."""
        self._work, self._failed, self._finish = work, failed, finish
        self._slot: LatestValue[T] = LatestValue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=False)
        self._thread.start()

    @property
    def replaced(self) -> int:
        """Number of values replaced by newer ones before the worker was free."""
        return self._slot.replaced

    def put(self, value: T) -> None:
        """Offer ``value`` to the worker; it replaces one that is still waiting."""
        self._slot.put(value)

    @property
    def waiting(self) -> bool:
        """Whether a value is waiting for the worker."""
        return self._slot.occupied

    def renew(self, value: T) -> bool:
        """Replace a waiting value with ``value``; return False, and do nothing, if none is waiting."""
        return self._slot.renew(value)

    def clear(self) -> None:
        """Drop a waiting value; work in progress continues."""
        self._slot.clear()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Stop after the call in progress; return whether the thread ended within ``timeout_s``."""
        self._stopping.set()
        self._slot.close()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            value = self._slot.take(timeout_s=1.0)
            if value is None:
                continue
            try:
                self._work(value)
            except Exception as error:  # noqa: BLE001 - handed on, never dropped
                self._failed(error)
        if self._finish is not None:
            self._finish()
