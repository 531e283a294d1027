"""What stayed away for so long that the arm had to stop: the policy's answer, the controller, this process.

An arm that had to stop does not start again by itself, so a return is not enough. Times are ns of the
node's clock.
"""

from __future__ import annotations

from collections.abc import Iterator

from openvla_ros.streams.answer_watch import AnswerWatch

NS = 1e-9
# A controller that says nothing for so long is gone; it repeats its verdict every 0.5 s.
CONTROLLER_SILENT_S = 1.5


class AbsenceWatch:
    """Watches what one instruction after another depends on.

    ``answer_s`` is how long the policy may not answer after its first answer, ``suspended_s`` how long this
    process may stand still.
    """

    def __init__(self, answer_s: float, suspended_s: float) -> None:
        self.answers = AnswerWatch(answer_s)
        self.suspended_s = suspended_s
        self._controller_ns = 0  # when it last said how it is, since the instruction began; 0: not yet
        self._ticked_ns = 0  # 0: not yet

    def set_limits(self, answer_s: float, suspended_s: float) -> None:
        """Put other limits in force."""
        self.answers.limit_s, self.suspended_s = answer_s, suspended_s

    def begin(self) -> None:
        """Begin with a new instruction: an older word of the controller does not count."""
        self._controller_ns = 0

    def controller_spoke(self, now_ns: int) -> None:
        """Note that the controller said how it is, which it does again and again while it lives."""
        self._controller_ns = now_ns

    def suspended(self, now_ns: int) -> float | None:
        """Return for how many seconds this process has stood still if that is too long, else ``None``."""
        away_s = (now_ns - self._ticked_ns) * NS
        return away_s if self._ticked_ns and away_s > self.suspended_s else None

    def tick(self, now_ns: int) -> list[str]:
        """Return what has been away for too long, in words; to be called again and again."""
        away_s, self._ticked_ns = self.suspended(now_ns), now_ns
        return list(self._absences(away_s, now_ns))

    def forget_tick(self) -> None:
        """Count the time in which nobody called ``tick`` as no standstill."""
        self._ticked_ns = 0

    def _absences(self, away_s: float | None, now_ns: int) -> Iterator[str]:
        if away_s is not None:
            yield f"the policy node stood still for {away_s:.1f} s"
        silent_s = self.answers.silent_s(now_ns)
        if silent_s is not None:
            yield self.unanswered(silent_s)
        if self._controller_ns and (now_ns - self._controller_ns) * NS > CONTROLLER_SILENT_S:
            yield f"the controller has said nothing for {CONTROLLER_SILENT_S:g} s"

    def unanswered(self, silent_s: float) -> str:
        """Say that the policy did not answer for so long."""
        return f"the policy did not answer for {silent_s:.2f} s; the limit is {self.answers.limit_s:g} s"
