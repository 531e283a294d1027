"""Comparing policies on a real robot without knowing which one acts: a shuffled order, and a tally.

A person resets the scene, watches, and says how it went. Every block of trials holds each policy
once in random order, so that light, wear and the person's mood touch all of them alike.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.evaluation.wilson import SuccessRate


@dataclass(frozen=True)
class BlindedTrial:
    """One trial's verdict; ``policy`` is looked up only after the last one."""

    number: int  # from 0
    policy: str
    instruction: str
    success: bool


def blinded_order(policies: Sequence[str], trials: int, seed: int) -> list[str]:
    """Return which policy acts in each of ``trials`` trials a policy, block by block.

    Raises ``InvalidValueError`` for fewer than two different policies.
    """
    if len(policies) < 2 or len(set(policies)) != len(policies):
        raise InvalidValueError(f"a comparison needs at least two different policies; given {list(policies)}")
    random = np.random.default_rng(seed)
    return [policies[i] for _ in range(trials) for i in random.permutation(len(policies))]


class BlindedComparison:
    """The verdicts so far, on disk after each one: a comparison can be interrupted and gone on with."""

    def __init__(self, path: Path, policies: Sequence[str], trials: int, seed: int) -> None:
        """Open or begin the comparison in ``path``; raises ``DatasetError`` if it is another one."""
        self._path = path
        self.order = blinded_order(policies, trials, seed)
        self.verdicts: list[BlindedTrial] = []
        if path.is_file():
            self.verdicts = _read(path)
            said = [verdict.policy for verdict in self.verdicts]
            if said != self.order[: len(said)]:
                raise DatasetError(f"{path} holds a comparison of other policies or another seed")

    @property
    def next_policy(self) -> str | None:
        """Which policy acts next; not to be shown. ``None`` when all trials are done."""
        done = len(self.verdicts)
        return self.order[done] if done < len(self.order) else None

    def add(self, instruction: str, success: bool) -> None:
        """Note how the trial went, on disk before returning."""
        policy = self.next_policy
        if policy is None:
            raise InvalidValueError("all trials of this comparison are done")
        verdict = BlindedTrial(len(self.verdicts), policy, instruction, success)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(verdict)) + "\n")
            file.flush()
        self.verdicts.append(verdict)

    def rates(self) -> dict[str, SuccessRate]:
        """Return the success rate of each policy that has acted."""
        found: dict[str, list[bool]] = {}
        for verdict in self.verdicts:
            found.setdefault(verdict.policy, []).append(verdict.success)
        return {policy: SuccessRate(sum(flags), len(flags)) for policy, flags in sorted(found.items())}


def _read(path: Path) -> list[BlindedTrial]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [BlindedTrial(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError) as error:
        raise DatasetError(f"{path} holds no comparison: {error}") from error
