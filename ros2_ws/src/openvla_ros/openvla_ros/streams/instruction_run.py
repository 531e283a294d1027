"""The life of an instruction: which is current, why it is not acting, how it ends, which chunks may go out.

The state machine between the policy node's messages, its inference thread and the controller. It knows
nothing of ROS and has neither clock nor thread: callers say when something happens, and what has to
reach the world goes through ``Effects``.

Threads: inference and what follows from it (``is_served`` to ``broke``) may run beside everything else.
One lock makes a beginning, an ending and a chunk that goes out exclude each other: no chunk goes out after
an ending, and everybody hears of beginnings and endings in the order in which they were.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from openvla_ros.errors import PolicyError
from openvla_ros.streams.absence_watch import AbsenceWatch
from openvla_ros.streams.assignment import Assignment, Outcome, StepReport
from openvla_ros.streams.buffer import Moment, Refusal
from openvla_ros.streams.instruction_filter import InstructionFilter
from openvla_ros.streams.repetition import Repetition
from openvla_ros.values.health import Health, ReasonCounter

# What the controller says where it will not take chunks again by itself.
FINAL_REASONS = ("e_stop", "shut_down")
SUCCESS = "the robot reported success (topic task/success)"
NOT_ACTIVE = "the policy node is not active"


@dataclass(frozen=True)
class Instant:
    """One instant on the three clocks that matter to an instruction."""

    stamp_ns: int  # the node's clock, which stamps headers; it may be simulated
    steady_s: float  # a monotonic clock, for durations
    system_ns: int  # the system's clock, with which publishers stamp their messages


@dataclass(frozen=True)
class RunLimits:
    """How long something may stay away, in seconds."""

    give_up_s: float  # a step of a topic's instruction; the process itself, which was suspended
    answer_s: float  # the policy's answer, after its first one
    look_s: float  # an image to act on, before the reason is asked for
    resume: bool = False  # go on with an old latched instruction, and after something was away for too long


class Effects(Protocol):
    """The effects of an instruction outside. Called in order, from any thread: nothing here may wait."""

    def announce(self, instruction: str) -> None:
        """Say what is carried out from now on (empty: nothing); drop work that waits for the one before."""
        ...

    def hold(self) -> None:
        """Ask the controller to hold the arm."""
        ...

    def take_over(self, assignment: Assignment) -> bool:
        """Ask the controller for the arm; return whether an answer will come (``controller_answered``)."""
        ...


class Log(Protocol):
    """Where a person reads what happened."""

    def info(self, message: str) -> object:
        """Write a line."""
        ...

    def warning(self, message: str) -> object:
        """Write a warning."""
        ...

    def error(self, message: str) -> object:
        """Write an error."""
        ...


class InstructionRun:
    """Carries at most one instruction at a time from its beginning to its one ending."""

    def __init__(
        self,
        effects: Effects,
        log: Log,
        moment: Callable[[str, int], Moment | Refusal],
        refusals: ReasonCounter,
        limits: RunLimits,
    ) -> None:
        """``moment`` is ``ObservationBuffer.moment``; ``refusals`` counts why the policy did not act."""
        self._effects, self._log, self._moment, self._refusals = effects, log, moment, refusals
        self._limits = limits
        self._lock = threading.RLock()
        self._active = False
        self._current: Assignment | None = None
        self._asking: Assignment | None = None  # the controller has not yet answered for it
        self._begun_ns = 0  # an image from before the instruction is not acted on
        self._waits_for_new = ""  # why the last instruction is over although nobody ended it
        self._looked_s = 0.0  # when an image was last acted on, or refused
        self._verdict = ("", "")  # the controller's newest: reason and words
        self._filter = InstructionFilter(0)
        self._repetition = Repetition()
        self._absences = AbsenceWatch(limits.answer_s, limits.give_up_s)
        self._served: Assignment | None = None  # whose steps the policy remembers

    def set_limits(self, limits: RunLimits) -> None:
        """Change the limits, also for the instruction in progress."""
        self._limits = limits
        self._absences.set_limits(limits.answer_s, limits.give_up_s)

    # The node's own life

    def listen(self, now: Instant) -> None:
        """Count latched instructions from now on; ``resume`` counts older ones too."""
        self._filter = InstructionFilter(now.system_ns, self._limits.resume)
        self._absences.forget_tick()

    def activate(self) -> None:
        """Begin to take instructions."""
        self._active = True

    def deactivate(self, why: str, now: Instant) -> None:
        """Accept no more instructions, and end the current one."""
        self._active = False
        self._end_current(Outcome.ABORTED, why, now)

    @contextmanager
    def between_instructions(self, why: str) -> Iterator[None]:
        """Let no instruction begin in the block; raises ``PolicyError`` with ``why`` if one is current."""
        with self._lock:
            if self._current is not None:
                raise PolicyError(f"{self._current.instruction!r} is being carried out; {why}")
            yield

    # Beginning and ending

    def begin(self, assignment: Assignment, now: Instant) -> None:
        """Make ``assignment`` the current one, replacing any other. Refused if empty or not active."""
        if not self._active:
            assignment.end(Outcome.REFUSED, NOT_ACTIVE, now.steady_s)
            return
        if not assignment.instruction.strip():
            assignment.end(Outcome.REFUSED, "the instruction is empty", now.steady_s)
            return
        with self._lock:
            before, self._current = self._current, assignment
            self._begun_ns, self._looked_s = now.stamp_ns, now.steady_s
            self._absences.begin()
            self._effects.announce(assignment.instruction)
            if before is not None:
                before.end(Outcome.PREEMPTED, f"replaced by {assignment.instruction!r}", now.steady_s)
            self._log.info(f"begins: {assignment.instruction!r}")
            self._asking = assignment
            if not self._effects.take_over(assignment):
                self._asking = None

    def end(
        self, assignment: Assignment, outcome: Outcome, message: str, now: Instant, *, wait: bool = False
    ) -> None:
        """End ``assignment``; hold if it is current. ``wait``: only a new instruction restarts the arm."""
        with self._lock:
            if assignment is self._current:
                self._current = None
                self._waits_for_new = message if wait else ""
                self._effects.announce("")
                self._log.info(f"{outcome}: {assignment.instruction!r}: {message}")
                self._effects.hold()
            assignment.end(outcome, message, now.steady_s)

    def _end_current(self, outcome: Outcome, message: str, now: Instant) -> None:
        with self._lock:
            if self._current is not None:
                self.end(self._current, outcome, message, now)

    def _give_up(self, assignment: Assignment, why: str, now: Instant) -> None:
        """End it unless asked to go on: an arm that had to stop does not start again by itself."""
        if not self._limits.resume:
            self.end(assignment, Outcome.ABORTED, why, now, wait=True)

    # What comes in by topic

    def heard(self, instruction: str, published_ns: int, latched: bool, now: Instant) -> None:
        """Begin what the topic says; an empty instruction means "stop".

        ``published_ns`` is the publisher's time stamp; ``latched``: a subscription heard it that is also
        given what was said before.
        """
        current = self._current
        if self._filter.is_repeat(published_ns):
            return  # the other subscription has it
        objection = self._filter.objection(published_ns, now.system_ns) if latched else ""
        self._filter.take(published_ns)
        repeated = ""
        if not objection and self._active:
            repeated = self._repetition.heard(instruction, current is not None, now.steady_s)
        ignored = f"instruction {instruction!r} was ignored"
        if not instruction.strip():
            self._end_current(Outcome.ABORTED, "an empty instruction arrived on the topic", now)
        elif objection or not self._active:
            self._wait_for_new(f"{ignored}: {objection or NOT_ACTIVE}")
        elif current is not None and current.is_goal:
            self._log.warning(f"{ignored}: the goal {current.instruction!r} is being carried out")
        elif current is None and repeated:
            self._wait_for_new(f"{ignored}: {repeated}")
        elif current is None or current.instruction != instruction:
            self.begin(Assignment(instruction, now.steady_s, give_up_s=self._limits.give_up_s), now)

    def _wait_for_new(self, why: str) -> None:
        """Say that only a new instruction makes the policy act, now and in ``/diagnostics``."""
        with self._lock:
            self._waits_for_new = why if self._current is None else ""
        self._log.warning(f"{why}; waiting for a new instruction")

    def task_succeeded(self, now: Instant) -> None:
        """Note that the robot's task is done: a goal that has acted ends with it."""
        current = self._current
        if current is not None and current.is_goal and current.steps:
            self.end(current, Outcome.SUCCEEDED, SUCCESS, now)

    # The controller

    def controller_answered(self, assignment: Assignment, refusal: str | None, now: Instant) -> None:
        """Note whether the arm was given for ``assignment``: ``None``, or why it was not."""
        if assignment is self._asking:
            self._asking = None
        if refusal is not None:
            self.end(assignment, Outcome.REFUSED, f"the controller refuses: {refusal}", now)

    def controller_said(self, reason: str, words: str, is_state: bool, now: Instant) -> None:
        """Note a verdict; ``is_state``: one that the controller repeats while it lives."""
        self._verdict = (reason, words)
        if is_state:
            self._absences.controller_spoke(now.stamp_ns)
        if reason in FINAL_REASONS:
            self._end_current(Outcome.ABORTED, f"the controller says {reason}: {words}", now)

    # Images and time

    def acting_on(self, stamp_ns: int) -> Assignment | None:
        """Return the instruction that an image stamped so is for; none for an image from before it."""
        return self._current if stamp_ns >= self._begun_ns else None

    def look(self, assignment: Assignment, listened: bool, now: Instant) -> Moment | None:
        """Return the newest moment to act on, or note why there is none.

        ``listened``: somebody takes action chunks.
        """
        self.looked(now)
        moment = self._moment(assignment.instruction, now.stamp_ns)
        if isinstance(moment, Moment) and not listened:
            moment = Refusal("no_controller", "nobody listens to policy/action_chunk")
        elif isinstance(moment, Moment) and assignment is self._asking:
            moment = Refusal("not_granted", "the controller has not given the arm to the policy yet")
        if isinstance(moment, Refusal):
            self.refuse(assignment, moment)
            return None
        return moment

    def looked(self, now: Instant) -> None:
        """Note that an image came that is acted on."""
        self._looked_s = now.steady_s

    def tick(self, now: Instant) -> None:
        """Look at every limit; to be called much more often than the shortest of them."""
        current, absences = self._current, self._absences.tick(now.stamp_ns)
        if current is None:
            return
        for why in absences:
            self._give_up(current, why, now)
        if now.steady_s - self._looked_s > self._limits.look_s:
            self._say_why_not(current, now)
        ending = current.overdue(now.steady_s)
        if ending is not None:
            self.end(current, *ending, now, wait=ending[0] is not Outcome.TIME_LIMIT)

    def _say_why_not(self, assignment: Assignment, now: Instant) -> None:
        """No image came to act on: note why."""
        self.looked(now)
        moment = self._moment(assignment.instruction, now.stamp_ns)
        if isinstance(moment, Refusal):
            self.refuse(assignment, moment)

    # Inference: any thread

    def is_served(self, assignment: Assignment) -> bool:
        """Return whether the policy has begun with ``assignment``."""
        return assignment is self._served

    def serving(self, assignment: Assignment) -> None:
        """Note that the policy has forgotten the instruction before and begins with ``assignment``."""
        self._served = assignment

    def asked(self, now: Instant, *, first: bool = False) -> None:
        """Note that the policy was asked; ``first``: for a new instruction."""
        if first:
            self._absences.answers.begin()
        self._absences.answers.asked(now.stamp_ns)

    def failed(self, assignment: Assignment, refusal: Refusal) -> None:
        """Note that the policy could not answer."""
        self._absences.answers.failed()
        self.refuse(assignment, refusal)

    def answered(self, assignment: Assignment, now: Instant) -> None:
        """Note the policy's answer; one that came too late ends ``assignment``."""
        silent_s = self._absences.answers.answered(now.stamp_ns)
        if silent_s is not None:
            self._give_up(assignment, self._absences.unanswered(silent_s), now)

    def send(
        self,
        assignment: Assignment,
        publish: Callable[[], None],
        clock: Callable[[], Instant],
        image_ns: int,
        inference_s: float,
    ) -> float | None:
        """Let a chunk go out unless its instruction is over, or this process was suspended in between.

        ``publish`` and ``clock`` are called while nothing can end the instruction. Returns the chunk's age
        in seconds, from its image's stamp; ``None`` if it did not go out.
        """
        with self._lock:
            if assignment is not self._current or self._absences.suspended(clock().stamp_ns) is not None:
                return None
            publish()
            now = clock()
            age_s = (now.stamp_ns - image_ns) * 1e-9
            assignment.steps += 1
            assignment.stepped(now.steady_s, StepReport(assignment.steps, inference_s, age_s, *self._verdict))
            return age_s

    def refuse(self, assignment: Assignment, refusal: Refusal) -> None:
        """Note why the policy did not act; counted even if ``assignment`` is over."""
        self._refusals.add(refusal.reason, refusal.detail)
        with self._lock:
            if assignment is self._current:
                assignment.refused(refusal)

    def broke(self, error: Exception, now: Instant) -> None:
        """End the current instruction: the policy raised an unexpected error."""
        message = f"the policy failed: {type(error).__name__}: {error}"
        self._log.error(message)
        self._refusals.add("failure", message)
        with self._lock:
            self._end_current(Outcome.ABORTED, message, now)
            self._waits_for_new = message

    # Diagnostics

    def health(self, policy: str, values: dict[str, str]) -> Health:
        """Return the status "task": what is carried out, or why nothing is."""
        current, waits_for_new = self._current, self._waits_for_new
        values = {
            "policy": policy,
            "instruction": "" if current is None else current.instruction,
            "steps": "" if current is None else str(current.steps),
            **values,
        }
        if not self._active:
            return Health("task", "warn", "not active", values)
        if current is None and waits_for_new:
            message = f"not acting: waiting for a new instruction; {waits_for_new}"
            return Health("task", "warn", message, values)
        if current is None:
            return Health("task", "ok", "not acting: no instruction has been given", values)
        if current.refusal is not None:
            return Health("task", "error", f"not acting: {current.refusal}", values)
        return Health("task", "ok", f"step {current.steps} of {current.instruction!r}", values)
