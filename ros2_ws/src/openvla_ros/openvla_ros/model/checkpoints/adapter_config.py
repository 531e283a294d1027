"""peft's ``adapter_config.json``: the fields that are supported, have no effect here, or are refused.

Every field of peft 0.21.2's ``LoraConfig`` is in one of three places: ``AdapterConfig`` (supported),
``WITHOUT_EFFECT`` or ``REFUSED``. A field that is in none of them is refused if it is set.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from openvla_ros.errors import CheckpointError
from openvla_ros.integrity.validation_errors import validation_lines
from openvla_ros.model.network.config_file import read_json

ADAPTER_CONFIG = "adapter_config.json"

# Which modules were adapted is read from the names of the tensors; the rest is about training, about how an
# initialisation was computed (``init_lora_weights`` says whether that matters), or about who wrote the file.
WITHOUT_EFFECT = frozenset({
    "task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "runtime_config",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "lora_dropout", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "megatron_core", "qalora_group_size",
})  # fmt: skip

# Set, these change what the adapter computes in a way that is not supported; by field, what they mean.
REFUSED: Mapping[str, str] = {
    "fan_in_fan_out": "transposed weights, which OpenVLA does not have",
    "bias": "trained biases",
    "lora_bias": "a bias in each update",
    "modules_to_save": "modules that were trained as a whole",
    "trainable_token_indices": "trained token embeddings",
    "target_parameters": "adapted parameters that belong to no linear layer",
    "layer_replication": "repeated layers",
    "megatron_config": "layers distributed by Megatron",
    "alora_invocation_tokens": "an adapter that acts only after certain tokens (aLoRA)",
    "velora_config": "VeLoRA",
    "use_qalora": "QALoRA",
    "monteclora_config": "MonteCLoRA",
    "use_bdlora": "block-diagonal factors (BD-LoRA)",
    "arrow_config": "routing between several adapters (Arrow)",
    "kasa_config": "a base whose smallest singular values were removed (KaSA)",
    "ensure_weight_tying": "adapters shared by tied layers",
}
_PLAIN = ("true", "false", "gaussian", "eva", "orthogonal", "mica")
_CHANGING = ("pissa", "olora", "corda", "lora_ga", "loftq")
_NITER = re.compile(r"pissa_niter_\d+")


@checked_dataclass(frozen=True, config=ConfigDict(extra="ignore", allow_inf_nan=False))
class AdapterConfig:
    """The supported fields of ``adapter_config.json``."""

    peft_type: Literal["LORA"]
    r: Annotated[int, Field(gt=0)]
    lora_alpha: Annotated[float, Field(gt=0)]
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: bool | str = True
    rank_pattern: dict[str, Annotated[int, Field(gt=0)]] | None = None
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] | None = None
    base_model_name_or_path: str | None = None

    @property
    def initialisation(self) -> str | None:
        """How training changed the base's weights before it began; ``None`` if it did not.

        ``pissa``, ``pissa_niter_N``, ``olora``, ``corda``, ``lora_ga`` or ``loftq``.
        """
        name = str(self.init_lora_weights).lower()
        return None if name in _PLAIN else name

    def meaning(self) -> dict[str, Any]:
        """Return the fields that change what the adapter computes, as JSON values."""
        return {
            "r": self.r,
            "lora_alpha": self.lora_alpha,
            "use_rslora": self.use_rslora,
            "use_dora": self.use_dora,
            "init_lora_weights": self.initialisation,
            "rank_pattern": dict(self.rank_pattern or {}),
            "alpha_pattern": dict(self.alpha_pattern or {}),
        }

    def scale(self, module: str, rank: int) -> float:
        """Return the factor of ``module``'s update, whose factors have ``rank`` columns."""
        alpha = next(
            (a for pattern, a in (self.alpha_pattern or {}).items() if _matches(pattern, module)),
            self.lora_alpha,
        )
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def rank(self, module: str) -> int:
        """Return the rank that the configuration states for ``module``."""
        patterns = (self.rank_pattern or {}).items()
        return next((r for pattern, r in patterns if _matches(pattern, module)), self.r)


SUPPORTED = frozenset(AdapterConfig.__dataclass_fields__)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Return the configuration in ``folder/adapter_config.json``.

    Raises ``CheckpointError`` naming the field if a value is wrong or changes the adapter's meaning in a way
    that is not supported.
    """
    path = folder / ADAPTER_CONFIG
    data = {key: value for key, value in read_json(path).items() if value is not None}
    try:
        config = TypeAdapter(AdapterConfig).validate_python(data)
    except ValidationError as error:
        wrong = "; ".join(validation_lines(error, "adapter"))
        raise CheckpointError(f"{path}: {wrong}") from error
    problems = [*_problems(data), *_problems_of_initialisation(config), *_problems_of_patterns(config)]
    if problems:
        raise CheckpointError(f"{path}: {'; '.join(problems)}")
    return config


def _problems(data: Mapping[str, Any]) -> list[str]:
    found = []
    for key, value in data.items():
        if key in SUPPORTED or key in WITHOUT_EFFECT or _is_unset(key, value):
            continue
        meaning = REFUSED.get(key)
        why = f"{meaning}: not supported" if meaning else "an unknown field, which may change the adapter"
        found.append(f"{key} is {value!r} ({why})")
    return found


def _is_unset(key: str, value: Any) -> bool:
    """Return whether a field has a value that changes nothing: false, empty, or bias ``none``."""
    return value is False or value == "" or value in ([], {}) or (key == "bias" and value == "none")


def _problems_of_initialisation(config: AdapterConfig) -> list[str]:
    name = config.initialisation
    if name is None or name in _CHANGING or _NITER.fullmatch(name):
        return []
    known = ", ".join((*_PLAIN, *_CHANGING, "pissa_niter_N"))
    return [f"init_lora_weights is {config.init_lora_weights!r}; known are {known}"]


def _problems_of_patterns(config: AdapterConfig) -> list[str]:
    found = []
    for field in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, field) or {}:
            try:
                re.compile(pattern)
            except re.error as error:
                found.append(f"{field} has {pattern!r}, which is no regular expression: {error}")
    return found


def _matches(pattern: str, module: str) -> bool:
    """Return whether a pattern of peft's ``rank_pattern`` or ``alpha_pattern`` matches ``module``."""
    return re.match(rf"(.*\.)?({pattern})$", module) is not None
