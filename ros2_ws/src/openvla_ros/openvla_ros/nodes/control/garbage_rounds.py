"""Schedules Python's garbage collector in a control process: right after a command, never in between.

By default the collector runs whenever enough was allocated, on any thread, and blocks the interpreter
until it is done. Here it is off while the loop runs. Young objects are collected once a second, after a
period's command was sent; all objects while the arm rests.
"""

from __future__ import annotations

import gc
import time

YOUNG_PERIOD_S = 1.0
FULL_PERIOD_S = 10.0  # at rest


class GarbageRounds:
    """Controls the collector from ``start`` to ``stop``, and measures how long its rounds take."""

    def __init__(self) -> None:
        self.total_s = 0.0  # of all rounds so far, whatever started them
        self.longest_s = 0.0
        self._began_s = 0.0
        self._young_s = self._full_s = 0.0

    def start(self) -> None:
        """Exclude everything allocated so far from later rounds, and disable automatic collection."""
        gc.collect()
        gc.freeze()
        gc.disable()
        self._young_s = self._full_s = time.monotonic()
        gc.callbacks.append(self._note)

    def stop(self) -> None:
        """Re-enable automatic collection."""
        if self._note in gc.callbacks:
            gc.callbacks.remove(self._note)
        gc.enable()

    def run(self, at_rest: bool) -> None:
        """Run a round if one is due; call this when most time is left before the next command."""
        now_s = time.monotonic()
        if at_rest and now_s - self._full_s > FULL_PERIOD_S:
            gc.collect()
            self._full_s = self._young_s = now_s
        elif now_s - self._young_s > YOUNG_PERIOD_S:
            gc.collect(0)
            self._young_s = now_s

    def _note(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._began_s = time.perf_counter()
            return
        took_s = time.perf_counter() - self._began_s
        self.total_s += took_s
        self.longest_s = max(self.longest_s, took_s)
