"""Single key presses of a terminal, without waiting and without Return."""

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
    """Return a function that gives the keys pressed since its last call; none where there is no terminal."""
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
