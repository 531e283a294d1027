"""A training request, its identity, and its listener."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.training.data.selection import Selection
from openvla_ros.training.recipe import DATASET_KEY, Recipe
from openvla_ros.training.trainer import Scores, StepResult


@dataclass(frozen=True)
class WeightedData:
    """One dataset, and its sampling weight relative to the others."""

    request: SourceRequest
    weight: float = 1.0


@dataclass(frozen=True)
class FinetuneRequest:
    """What to train, on which data, and where to write the result."""

    base: str  # checkpoint folder or hub id
    data: tuple[WeightedData, ...]
    output: Path
    recipe: Recipe = field(default_factory=Recipe)
    selection: Selection = field(default_factory=Selection)
    questions: tuple[Path, ...] = ()
    dataset_key: str = DATASET_KEY  # dataset key of the statistics
    keep_statistics: str | None = None  # dataset key of the base whose statistics to keep
    robot: str | None = None  # profile name, if the data does not contain it
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32  # of the frozen weights
    offline: bool = False

    def key(self) -> str:
        """Return a digest of everything that determines the run's numbers."""
        recipe = self.recipe.to_json()
        for name in ("save_every", "validate_every", "steps", "micro_batch"):
            del recipe[name]
        request = {
            "base": self.base,
            "data": [[str(d.request.path.resolve()), d.weight] for d in self.data],
            "how": self.how_opened(),
            "recipe": recipe,
            "selection": asdict(self.selection),
            "questions": [str(path.resolve()) for path in self.questions],
            "keep_statistics": self.keep_statistics,
            "dtype": str(self.dtype),
        }
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()

    def how_opened(self) -> str:
        """Return the options for reading the datasets, except paths."""
        how = [[d.request.split, d.request.convention] for d in self.data]
        spaces = [None if d.request.space is None else vars(d.request.space) for d in self.data]
        rates = [d.request.rate_hz for d in self.data]
        actions = [d.request.actions for d in self.data]
        asked = [how, spaces, *([rates] if any(rates) else [])]
        if set(actions) != {"commanded"}:
            asked.append(actions)
        return json.dumps(asked, default=np.ndarray.tolist)

    def settings(self) -> dict[str, Any]:
        """Return the request in readable form, for the report and ``finetune.json``."""
        return {
            "base": self.base,
            "data": [str(d.request.path) for d in self.data],
            "data_weights": [d.weight for d in self.data],
            "questions": [str(path) for path in self.questions],
            **self.recipe.to_json(),
            **{f"select_{name}": value for name, value in asdict(self.selection).items()},
            "keep_statistics": self.keep_statistics,
            "device": str(self.device),
            "dtype": str(self.dtype),
        }


class Listener(Protocol):
    """Receives the progress of a run."""

    def reading(self, done: int, total: int) -> None:
        """Episode ``done`` of ``total`` has been read."""
        ...

    def stepped(self, step: int, total: int, result: StepResult) -> None:
        """Optimizer step ``step`` of ``total`` is done."""
        ...

    def validated(self, step: int, scores: Scores) -> None:
        """The held-out episodes were evaluated after ``step``."""
        ...

    def note(self, text: str) -> None:
        """A message for the user."""
        ...
