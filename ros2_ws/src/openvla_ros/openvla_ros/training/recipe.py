"""How a model is trained further: the method, the numbers, and the paper's values as defaults."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from openvla_ros.errors import InvalidValueError

Method = Literal["lora", "qlora", "full", "last-layer", "frozen-vision", "sandwich"]
METHODS: tuple[Method, ...] = get_args(Method)
ADAPTERS: tuple[Method, ...] = ("lora", "qlora")
# OpenVLA's fine-tuning script for LoRA; the paper's full fine-tuning runs for everything else.
LORA_RATE, FULL_RATE = 5e-4, 2e-5


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result of a run, besides base and data."""

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
    intervention_weight: float = 2.0  # how often a corrected step is seen for one that is not
    words_share: float = 0.0  # share of every batch that is questions and answers about pictures
    validation_share: float = 0.05  # of the episodes
    validate_every: int = 200
    save_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InvalidValueError(f"method {self.method!r}; the choices are {', '.join(METHODS)}")
        for name in ("rank", "batch_size", "steps", "validate_every", "save_every"):
            if getattr(self, name) < 1:
                raise InvalidValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("words_share", "validation_share"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise InvalidValueError(f"{name} is {getattr(self, name)}; it must lie within 0 .. 1")
        if self.intervention_weight < 0.0 or self.warmup_steps < 0 or self.rate <= 0.0:
            raise InvalidValueError("intervention weight, warm-up and learning rate must not be negative")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise InvalidValueError(f"micro_batch is {self.micro_batch}; it must be at least 1")

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
        """Return the recipe as JSON values."""
        values = asdict(self)
        values["targets"] = None if self.targets is None else list(self.targets)
        return values
