"""Detects what has been absent too long to keep moving: the policy's answers, the controller, this process.

An arm that had to stop does not restart by itself, so it is not enough that they return. Times are
nanoseconds of the node's clock.
"""

from __future__ import annotations

from collections.abc import Iterator

from openvla_ros.streams.answer_watch import AnswerWatch

NS = 1e-9
# A controller silent for this long is gone; it repeats its verdict every 0.5 s.
CONTROLLER_SILENT_S = 1.5
# A process that did not even tick for this long heard nobody.
DEAF_S = 0.5


class AbsenceWatch:
    """Watches what one instruction after another depends on.

    ``answer_s`` limits how long the policy may take after its first answer, ``suspended_s`` how long this
    process may be suspended.
    """

    def __init__(self, answer_s: float, suspended_s: float) -> None:
        self.answers = AnswerWatch(answer_s)
        self.suspended_s = suspended_s
        self._controller_ns = 0  # its last state report since the instruction began; 0: none yet
        self._ticked_ns = 0  # 0: not yet

    def set_limits(self, answer_s: float, suspended_s: float) -> None:
        """Change the limits."""
        self.answers.limit_s, self.suspended_s = answer_s, suspended_s

    def begin(self) -> None:
        """Begin with a new instruction: earlier reports and requests do not count any more."""
        self._controller_ns = 0
        self.answers.begin()

    def controller_spoke(self, now_ns: int) -> None:
        """Note a state report of the controller, which repeats it while it runs."""
        self._controller_ns = now_ns

    def suspended(self, now_ns: int) -> float | None:
        """If this process was suspended for too long, return how long, seconds, else ``None``."""
        away_s = (now_ns - self._ticked_ns) * NS
        return away_s if self._ticked_ns and away_s > self.suspended_s else None

    def tick(self, now_ns: int) -> list[str]:
        """Return a line for everything that has been absent too long; call this periodically."""
        away_s = self.suspended(now_ns)
        unheard_ns = now_ns - self._ticked_ns if self._ticked_ns else 0
        if self._controller_ns and unheard_ns * NS > DEAF_S:
            self._controller_ns += unheard_ns  # it may have spoken: this process did not run
        self._ticked_ns = now_ns
        return list(self._absences(away_s, now_ns))

    def forget_tick(self) -> None:
        """Do not count the time without calls of ``tick`` as a suspension."""
        self._ticked_ns = 0

    def _absences(self, away_s: float | None, now_ns: int) -> Iterator[str]:
        if away_s is not None:
            yield f"the policy node was suspended for {away_s:.1f} s"
        silent_s = self.answers.silent_s(now_ns)
        if silent_s is not None:
            yield self.unanswered(silent_s)
        if self._controller_ns and (now_ns - self._controller_ns) * NS > CONTROLLER_SILENT_S:
            yield f"the controller has been silent for {CONTROLLER_SILENT_S:g} s"

    def unanswered(self, silent_s: float) -> str:
        """Return the line that says how long the policy did not answer."""
        return f"the policy did not answer for {silent_s:.2f} s; the limit is {self.answers.limit_s:g} s"
