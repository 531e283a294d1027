"""Progress of a training run: a bar in a terminal, lines in a log."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from openvla_ros.training.trainer import Scores, StepResult

LOG_EVERY_S = 20.0


class ProgressBar:
    """A progress bar with the time left in a terminal; occasional lines elsewhere."""

    def __init__(self, hidden: bool = False) -> None:
        self._hidden = hidden
        self._terminal = sys.stderr.isatty()
        self._bar: tqdm[None] | None = None
        self._said_s = time.monotonic()
        self._began_s: float | None = None
        self._first = 0

    def reading(self, done: int, total: int) -> None:
        """Show how many episodes have been read."""
        self._show("reading episodes", done, total, "")

    def stepped(self, step: int, total: int, result: StepResult) -> None:
        """Show the training step and its scores."""
        now_s = time.monotonic()
        if self._began_s is None:
            self._began_s, self._first = now_s, step
        scores = result.scores
        left_s = (now_s - self._began_s) / max(1, step - self._first) * (total - step)
        values = f"loss {scores.loss:.3f} accuracy {scores.accuracy:.2f}"
        if not self._terminal:
            values += f", {left_s:.0f} s left"
        self._show("training", step, total, values)

    def validated(self, step: int, scores: Scores) -> None:
        """Print the scores on the held-out episodes."""
        self.note(
            f"step {step}: held out: loss {scores.loss:.3f}, accuracy {scores.accuracy:.3f}, "
            f"distance {scores.l1:.4f}"
        )

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        if not self._hidden:
            tqdm.write(text, file=sys.stderr)

    def _show(self, what: str, done: int, total: int, values: str) -> None:
        if self._hidden:
            return
        if not self._terminal:
            if time.monotonic() - self._said_s > LOG_EVERY_S or done == total:
                self._said_s = time.monotonic()
                self.note(f"{what}: {done} of {total} {values}")
            return
        if self._bar is None or self._bar.desc.rstrip(": ") != what:
            if self._bar is not None:
                self._bar.close()
            self._bar = tqdm(total=total, desc=what, initial=done - 1)
        self._bar.set_postfix_str(values, refresh=False)
        self._bar.update(done - self._bar.n)
        if done == total:
            self._bar.close()
            self._bar = None
