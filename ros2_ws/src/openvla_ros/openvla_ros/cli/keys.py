"""Single key presses from a terminal, without blocking and without Return.

Every key counts, arrows and function keys too: they stop the arm.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def pressed_keys() -> Iterator[Callable[[], str]]:
    """Return a function that returns the keys pressed since its last call; none without a terminal."""
    if not sys.stdin.isatty():
        yield lambda: ""
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    tty.setcbreak(number)
    try:
        yield (
            lambda: (
                os.read(number, 64).decode(errors="replace") if select.select([number], [], [], 0)[0] else ""
            )
        )
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)
