"""Trials of an evaluation, with seeds and outcomes, and the notation of seeds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openvla_ros.errors import InvalidValueError
from openvla_ros.evaluation.wilson import SuccessRate

_RANGE = re.compile(r"(\d+)(?:\.\.(\d+))?")


@dataclass(frozen=True)
class Trial:
    """One attempt at one task."""

    task: str
    seed: int
    instruction: str
    success: bool
    steps: int  # actions that were executed
    seconds: float  # of the robot's time


@dataclass(frozen=True)
class Evaluation:
    """Trials of one policy."""

    policy: str
    trials: tuple[Trial, ...]

    @property
    def rate(self) -> SuccessRate:
        """Successes among all trials."""
        return SuccessRate(sum(trial.success for trial in self.trials), len(self.trials))

    def by_task(self) -> dict[str, SuccessRate]:
        """Return the success rate of each task, in the order of first appearance."""
        found: dict[str, list[bool]] = {}
        for trial in self.trials:
            found.setdefault(trial.task, []).append(trial.success)
        return {task: SuccessRate(sum(flags), len(flags)) for task, flags in found.items()}

    def to_json(self) -> dict[str, Any]:
        """Return rates and trials as JSON values."""
        return {
            "policy": self.policy,
            **self.rate.to_json(),
            "tasks": {task: rate.to_json() for task, rate in self.by_task().items()},
            "failed_seeds": [trial.seed for trial in self.trials if not trial.success],
            "mean_steps": sum(trial.steps for trial in self.trials) / len(self.trials),
        }


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of ``"100..199"``, ``"3"`` or ``"1,5,10..12"``; both ends belong to a range.

    Raises ``InvalidValueError`` for anything else, an empty range and a seed named twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise InvalidValueError(
                f"seeds {text!r}: {part!r} is neither a number nor a range such as 100..199"
            )
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if last < first:
            raise InvalidValueError(f"seeds {text!r}: the range {part} is empty")
        seeds.extend(range(first, last + 1))
    return tuple(check_different(seeds, text))


def check_different(seeds: Sequence[int], text: str) -> Sequence[int]:
    """Return ``seeds``; raises ``InvalidValueError`` if one comes twice, which would count it double."""
    if len(set(seeds)) != len(seeds):
        raise InvalidValueError(f"seeds {text!r} contain a seed twice")
    return seeds
