"""The policy of a running node: one thread asks it, another swaps its adapter, never both at once.

``streams/instruction_run.py`` decides what happens with an answer, and hears when the policy was asked
and when it answered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from openvla_ros.errors import OpenVLARosError, error_key
from openvla_ros.policy.adapter_swap import reload_adapter
from openvla_ros.policy.factory import PolicyOptions
from openvla_ros.policy.protocol import Policy, Preparing, Reporting
from openvla_ros.profile import RobotProfile
from openvla_ros.streams.assignment import Assignment
from openvla_ros.streams.buffer import Moment, Refusal
from openvla_ros.streams.instruction_run import Instant, InstructionRun, Log
from openvla_ros.streams.sampling import Forward
from openvla_ros.values.action import ActionChunk


@dataclass(frozen=True, eq=False)
class Question:
    """What the policy is asked: what to do at a moment, for an instruction."""

    assignment: Assignment
    moment: Moment


class RunningPolicy:
    """Asks ``policy`` and tells ``run``; ``forward`` are the arm's forward kinematics."""

    def __init__(
        self, policy: Policy, run: InstructionRun, forward: Forward, clock: Callable[[], Instant], log: Log
    ) -> None:
        self._policy, self._run, self._forward, self._clock, self._log = policy, run, forward, clock, log
        self._in_use = threading.Lock()  # nobody infers while an adapter is swapped

    @property
    def description(self) -> str:
        """One line for people: what decides."""
        return self._policy.description

    def report(self) -> dict[str, str]:
        """Return what the policy has measured of itself, if it does."""
        return dict(self._policy.report()) if isinstance(self._policy, Reporting) else {}

    def close(self) -> None:
        """Give back what the policy holds."""
        self._policy.close()

    def ask(self, question: Question) -> ActionChunk | None:
        """Return the policy's answer, or ``None`` where there is none to act on; the run knows why.

        Blocks for as long as the policy takes, so it is called on the worker's thread. What the policy
        should not raise passes.
        """
        run, assignment = self._run, question.assignment
        try:
            if not run.is_served(assignment) and self._made_ready(assignment):
                return None  # the image has aged meanwhile: the next one is acted on
            observation = question.moment.observe(self._forward)
            run.asked(self._clock())
            with self._in_use:
                chunk = self._policy.infer(observation)
        except OpenVLARosError as error:
            run.failed(assignment, Refusal(error_key(error), str(error)))
            return None
        run.answered(assignment, self._clock())
        return chunk

    def _made_ready(self, assignment: Assignment) -> bool:
        """Begin with a new instruction; return whether that took long enough for images to age."""
        began = time.perf_counter()
        self._run.asked(self._clock(), first=True)
        with self._in_use:
            policy = self._policy
            policy.reset()
            self._run.serving(assignment)
            took = isinstance(policy, Preparing) and policy.prepare(assignment.instruction)
        if took:
            self._log.info(
                f"first prompt of the length of {assignment.instruction!r}: preparing for it took "
                f"{time.perf_counter() - began:.2f} s"
            )
        return took

    def reload_adapter(self, options: PolicyOptions, profile: RobotProfile) -> None:
        """Put the adapter of ``options``, or none, in force while no instruction is.

        Raises as ``adapter_swap.reload_adapter``, and ``PolicyError`` if an instruction is in force; the
        adapter before stays then.
        """
        only_then = "adapters are swapped only while the robot rests or holds"
        with self._run.between_instructions(only_then), self._in_use:
            self._policy = reload_adapter(self._policy, options, profile)
