"""The fine-tuning recipe: method and hyperparameters, with the paper's values as defaults."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from openvla_ros.errors import InvalidValueError

Method = Literal["lora", "qlora", "full", "last-layer", "frozen-vision", "sandwich"]
METHODS: tuple[Method, ...] = get_args(Method)
ADAPTERS: tuple[Method, ...] = ("lora", "qlora")
# OpenVLA's fine-tuning script for LoRA; the paper's full fine-tuning runs for everything else.
LORA_RATE, FULL_RATE = 5e-4, 2e-5
DATASET_KEY = "finetuned"  # default dataset key of new statistics
LORA_ONLY = ("rank", "alpha", "dropout", "targets")


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a run's result, except base and data."""

    method: Method = "lora"
    rank: int = 32
    alpha: float | None = None  # None: min(rank, 16)
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None  # None: all linear layers
    learning_rate: float | None = None  # None: the method's own
    weight_decay: float = 0.01
    warmup_steps: int = 0
    clip_norm: float | None = None
    batch_size: int = 16  # over all processes
    micro_batch: int | None = None  # examples at once in one process; None: as many as there are
    steps: int = 1000
    augment: bool = True
    intervention_weight: float = 2.0  # sampling weight of corrected steps relative to others
    words_share: float = 0.0  # share of every batch that is questions and answers about images
    validate_every: int = 200
    save_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InvalidValueError(f"method {self.method!r}; the choices are {', '.join(METHODS)}")
        for name in ("rank", "batch_size", "steps", "validate_every", "save_every"):
            if getattr(self, name) < 1:
                raise InvalidValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("intervention_weight", "warmup_steps", "weight_decay"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise InvalidValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        for name in ("learning_rate", "clip_norm", "micro_batch"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise InvalidValueError(f"{name} is {value}; it must be above 0")
        if not 0.0 <= self.words_share < 1.0:
            raise InvalidValueError(f"words_share is {self.words_share}; it must be at least 0 and below 1")
        self._check_adapter()

    def _check_adapter(self) -> None:
        """Raise ``InvalidValueError`` for LoRA options with a method that has no adapter."""
        asked = [name for name in LORA_ONLY if getattr(self, name) != getattr(Recipe, name)]
        if asked and self.method not in ADAPTERS:
            raise InvalidValueError(
                f"{', '.join(asked)}: only for {' and '.join(ADAPTERS)}, but the method is {self.method}"
            )

    @property
    def rate(self) -> float:
        """The learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        return LORA_RATE if self.method in ADAPTERS else FULL_RATE

    @property
    def scale_numerator(self) -> float:
        """LoRA's alpha."""
        return float(min(self.rank, 16)) if self.alpha is None else self.alpha

    def rate_at(self, step: int) -> float:
        """Return the learning rate of optimizer step ``step``, from 0."""
        if step < self.warmup_steps:
            return self.rate * (step + 1) / self.warmup_steps
        return self.rate

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as JSON values, with the method's defaults filled in."""
        values = {**asdict(self), "learning_rate": self.rate}
        if self.method in ADAPTERS:
            values["alpha"] = self.scale_numerator
        values["targets"] = None if self.targets is None else list(self.targets)
        return values
