"""One instruction while it is carried out: its progress, its limits, and how it ends.

Pure bookkeeping of a single instruction; ``streams/instruction_run.py`` decides which one is current, and the
action server passes on what stands here. Times are seconds of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from openvla_ros.streams.buffer import Refusal


class Outcome(str, Enum):
    """How an instruction ended; the values are the words of ExecuteInstruction.action."""

    SUCCEEDED = "succeeded"
    TIME_LIMIT = "time_limit"
    CANCELED = "canceled"
    PREEMPTED = "preempted"
    REFUSED = "refused"
    ABORTED = "aborted"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Ending:
    """How an instruction ended, and why, in words."""

    outcome: Outcome
    message: str
    steps: int  # chunks that were sent to the controller
    duration_s: float


@dataclass(frozen=True)
class StepReport:
    """The report after each step, and after each refused one."""

    step: int
    inference_s: float  # observation in, actions out
    age_s: float  # from the image's stamp to the actions being sent
    verdict: str  # what the controller said last, or why the policy did not act
    detail: str


class Assignment:
    """One instruction being carried out. ``ended`` is called once, with the ending."""

    def __init__(
        self,
        instruction: str,
        started_s: float,
        *,
        time_limit_s: float | None = None,
        give_up_s: float | None = None,
        is_goal: bool = False,
        report: Callable[[StepReport], None] = lambda step: None,
        ended: Callable[[Ending], None] = lambda ending: None,
    ) -> None:
        """``give_up_s`` is how long it may go without a step; None for both limits: until told otherwise.

        ``is_goal``: somebody waits for the ending, so that only they, or a stop, end it early.
        """
        self.instruction, self.is_goal = instruction, is_goal
        self.started_s, self.time_limit_s, self.give_up_s = started_s, time_limit_s, give_up_s
        self._report, self._ended = report, ended
        self._last_step_s = started_s
        self.steps = 0
        self.refusal: Refusal | None = None  # why there was no step, since the last one
        self.ending: Ending | None = None

    def stepped(self, now_s: float, report: StepReport) -> None:
        """Note that a chunk was sent."""
        self._last_step_s, self.refusal = now_s, None
        self._report(report)

    def refused(self, refusal: Refusal) -> None:
        """Note that no chunk was sent, and why."""
        self.refusal = refusal
        self._report(StepReport(self.steps, 0.0, 0.0, refusal.reason, refusal.detail))

    def overdue(self, now_s: float) -> tuple[Outcome, str] | None:
        """Return how this must end now: the time is over, or nothing has been possible for too long."""
        why = f"; last refusal: {self.refusal}" if self.refusal else ""
        if self.time_limit_s is not None and now_s - self.started_s >= self.time_limit_s:
            return Outcome.TIME_LIMIT, f"the time limit of {self.time_limit_s:g} s was reached{why}"
        idle_s = now_s - self._last_step_s
        if self.give_up_s is None or idle_s < self.give_up_s or self.refusal is None:
            return None
        outcome = Outcome.ABORTED if self.steps else Outcome.REFUSED
        return outcome, f"the policy could not act for {idle_s:.1f} s: {self.refusal}"

    def end(self, outcome: Outcome, message: str, now_s: float) -> None:
        """End it, the first time this is called."""
        if self.ending is None:
            self.ending = Ending(outcome, message, self.steps, now_s - self.started_s)
            self._ended(self.ending)
