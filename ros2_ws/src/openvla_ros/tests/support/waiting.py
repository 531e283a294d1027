"""The one wait of the tests: until a condition holds, for a limited wall time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
# Wall seconds that a busy machine may take to import, to discover and to answer.
DISCOVERY_S = 60.0


def pause() -> None:
    time.sleep(0.02)


def holds_within(condition: Callable[[], T], timeout_s: float, step: Callable[[], object] = pause) -> T:
    """Do ``step`` until ``condition()`` is true or the time is over; return its last value."""
    end_s = time.monotonic() + timeout_s
    while not (value := condition()) and time.monotonic() < end_s:
        step()
    return value


def wait_until(
    condition: Callable[[], T],
    timeout_s: float = DISCOVERY_S,
    step: Callable[[], object] = pause,
    otherwise: Callable[[], object] = lambda: "the condition",
) -> T:
    """Return the first true value of ``condition``; fail with ``otherwise()`` if the time is over first."""
    value = holds_within(condition, timeout_s, step)
    if not value:
        raise AssertionError(f"not within {timeout_s} s: {otherwise()}")
    return value
