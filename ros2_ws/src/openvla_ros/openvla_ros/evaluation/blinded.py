"""Blinded comparison of policies on a real robot: a shuffled order, and a tally.

A person resets the scene, watches, and judges. Every block of trials contains each policy once, in
random order, so that light, wear and the person's mood affect all of them alike.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.evaluation.wilson import SuccessRate

# The seed of a file that names none: that of version 0.1.0, which was always the same.
UNNAMED_SEED = 0


@dataclass(frozen=True)
class BlindedTrial:
    """One trial's verdict; ``policy`` is looked up only after the last one."""

    number: int  # from 0
    policy: str
    instruction: str
    success: bool


def blinded_order(policies: Sequence[str], trials: int, seed: int) -> list[str]:
    """Return the policy of each trial, with ``trials`` trials per policy, block by block.

    Raises ``InvalidValueError`` for fewer than two different policies.
    """
    if len(policies) < 2 or len(set(policies)) != len(policies):
        raise InvalidValueError(f"a comparison needs at least two different policies; got {list(policies)}")
    random = np.random.default_rng(seed)
    return [policies[i] for _ in range(trials) for i in random.permutation(len(policies))]


class BlindedComparison:
    """The verdicts so far, saved after each one, so that a comparison can be interrupted and resumed.

    The file's first line is the seed of the order, each other line one verdict.
    """

    def __init__(self, path: Path, policies: Sequence[str], trials: int, seed: int | None = None) -> None:
        """Open or begin the comparison in ``path``, its order drawn from ``seed`` or at random.

        Raises ``DatasetError`` if ``path`` holds another comparison.
        """
        self._path = path
        self.verdicts: list[BlindedTrial] = []
        known: int | None = None
        if path.is_file():
            known, self.verdicts = _read(path)
        if seed is not None and known is not None and seed != known:
            raise DatasetError(f"{path} contains a comparison with seed {known}, not {seed}")
        chosen = secrets.randbelow(1 << 31) if seed is None else seed
        self.seed = chosen if known is None else known
        self.order = blinded_order(policies, trials, self.seed)
        said = [verdict.policy for verdict in self.verdicts]
        if said != self.order[: len(said)]:
            raise DatasetError(f"{path} contains a comparison of other policies")

    @property
    def next_policy(self) -> str | None:
        """Which policy acts next; not to be shown. ``None`` when all trials are done."""
        done = len(self.verdicts)
        return self.order[done] if done < len(self.order) else None

    def add(self, instruction: str, success: bool) -> None:
        """Save the verdict on the trial; it is on disk when this returns."""
        policy = self.next_policy
        if policy is None:
            raise InvalidValueError("all trials of this comparison are done")
        verdict = BlindedTrial(len(self.verdicts), policy, instruction, success)
        lines = [json.dumps(asdict(verdict))]
        if not self.verdicts:
            lines.insert(0, json.dumps({"seed": self.seed}))
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
        self.verdicts.append(verdict)

    def rates(self) -> dict[str, SuccessRate]:
        """Return the success rate of each policy that has acted."""
        found: dict[str, list[bool]] = {}
        for verdict in self.verdicts:
            found.setdefault(verdict.policy, []).append(verdict.success)
        return {policy: SuccessRate(sum(flags), len(flags)) for policy, flags in sorted(found.items())}


def _read(path: Path) -> tuple[int | None, list[BlindedTrial]]:
    """Return the seed, None of an empty file, and the verdicts."""
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not records:
            return None, []
        seed = int(records.pop(0)["seed"]) if set(records[0]) == {"seed"} else UNNAMED_SEED
        return seed, [BlindedTrial(**record) for record in records]
    except (OSError, ValueError, TypeError) as error:
        raise DatasetError(f"{path} contains no comparison: {error}") from error
