"""The signals that stop a process, taken before anything else: a node's imports alone take seconds.

Until a node has begun, nothing has to be brought to rest: a signal ends the process at once with exit code
0. Then ``ros/process.py`` takes the signals over. A parent that wants no gap at all starts the process
with the signals blocked, as ``openvla up`` does: what came since its start is then delivered here. Imports
nothing but the standard library.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def hold_back() -> None:
    """Keep stop signals pending, in this process and in the program that it becomes, until it takes them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def let_through() -> None:
    """Deliver what is pending, and what comes."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def end_at_once() -> None:
    """From now on, end this process with exit code 0 when a stop signal comes: nothing has begun yet."""
    for number in STOP_SIGNALS:
        signal.signal(number, _end)
    let_through()


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)
