"""What a checkpoint's ``config.json`` says about the network: towers, projector, language model, bins.

Reads the published layout of openvla-7b strictly: an unknown tower or a wrong value is a
``CheckpointError`` that names it and the choices. Knows nothing of weights or devices.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from openvla_ros.errors import CheckpointError

_SILENT = ConfigDict(extra="ignore", allow_inf_nan=False)  # a published config has many keys of no effect
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Count = Annotated[int, Field(gt=0)]


@plain_dataclass(frozen=True)
class Tower:
    """One vision transformer, as timm names it."""

    timm_id: str
    width: int
    depth: int
    heads: int
    mlp_ratio: float
    image_size: int  # pixels a side
    registers: int  # learned tokens between the class token and the patches
    class_token: bool
    layer_scale: bool
    attention_pool: bool
    patch_size: int = 14

    @property
    def hidden_width(self) -> int:
        """Width of the MLP's inner layer; rounded down, as timm does."""
        return int(self.width * self.mlp_ratio)

    @property
    def patches(self) -> int:
        """How many patch tokens one image gives."""
        return (self.image_size // self.patch_size) ** 2


# Sizes from timm 0.9.10, vision_transformer.py. The image size is the checkpoint's own.
_DINOV2 = {"width": 1024, "depth": 24, "heads": 16, "mlp_ratio": 4.0, "registers": 4}
_SIGLIP = {"width": 1152, "depth": 27, "heads": 16, "mlp_ratio": 3.7362, "registers": 0}
_DINOV2_PARTS = {"class_token": True, "layer_scale": True, "attention_pool": False}
_SIGLIP_PARTS = {"class_token": False, "layer_scale": False, "attention_pool": True}
TOWERS: Mapping[str, Mapping[str, Any]] = {
    "vit_large_patch14_reg4_dinov2.lvd142m": _DINOV2 | _DINOV2_PARTS,
    "vit_so400m_patch14_siglip_224": _SIGLIP | _SIGLIP_PARTS,
    "vit_so400m_patch14_siglip_384": _SIGLIP | _SIGLIP_PARTS,
}


@dataclass(frozen=True, config=_STRICT)
class TowerOverride:
    """Sizes that replace a tower's own; the key ``timm_model_kwargs`` of a reduced checkpoint."""

    embed_dim: Count | None = None
    depth: Annotated[int, Field(ge=2)] | None = None  # the output is that of the last block but one
    num_heads: Count | None = None
    mlp_ratio: Annotated[float, Field(gt=0)] | None = None


@dataclass(frozen=True, config=_SILENT)
class TextConfig:
    """The language model's sizes; what is absent takes transformers' ``LlamaConfig`` default."""

    model_type: Literal["llama"] = "llama"
    vocab_size: Count = 32000
    hidden_size: Count = 4096
    intermediate_size: Count = 11008
    num_hidden_layers: Count = 32
    num_attention_heads: Count = 32
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    hidden_act: Literal["silu"] = "silu"
    max_position_embeddings: Count = 2048
    rms_norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    rope_theta: Annotated[float, Field(gt=0)] = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # how transformers 5 writes the two above
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    pad_token_id: Annotated[int, Field(ge=0)] | None = None

    def __post_init__(self) -> None:
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if self.head_dim is None and self.hidden_size % heads:
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of the {heads} attention heads")
        if groups is not None and heads % groups:
            raise ValueError(f"num_attention_heads {heads} is no multiple of num_key_value_heads {groups}")


@dataclass(frozen=True, config=_SILENT)
class OpenVLAConfig:
    """The parts of ``config.json`` that the network and its decoding depend on."""

    model_type: Literal["openvla", "prismatic"]
    timm_model_ids: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)]
    image_sizes: tuple[Count, ...]
    use_fused_vision_backbone: bool
    text_config: TextConfig
    arch_specifier: str = "no-align+gelu-mlp"
    timm_override_act_layers: tuple[str | None, ...] | None = None
    timm_model_kwargs: tuple[TowerOverride, ...] | None = None
    output_projector_states: Literal[False] = False
    n_action_bins: Annotated[int, Field(ge=2)] = 256
    pad_to_multiple_of: Annotated[int, Field(ge=0)] = 64  # rows of padding at the end of the vocabulary
    pad_token_id: Annotated[int, Field(ge=0)] = 32000
    image_resize_strategy: Literal["resize-naive", "resize-crop", "letterbox"] = "resize-naive"
    llm_backbone_id: str | None = None
    vision_backbone_id: str | None = None
    norm_stats: dict[str, dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        count = len(self.timm_model_ids)
        if self.use_fused_vision_backbone != (count == 2):
            raise ValueError(
                f"use_fused_vision_backbone is {self.use_fused_vision_backbone} "
                f"for {count} timm_model_ids; it must be {count == 2}"
            )
        # The towers decide between the projector's two forms; the original never reads more than this.
        if not self.arch_specifier.endswith("gelu-mlp"):
            raise ValueError(f"arch_specifier is {self.arch_specifier!r}; it must end in 'gelu-mlp'")
        self._check_lengths(count)
        self._check_towers()
        if self.action_vocab_size <= self.n_action_bins:
            raise ValueError(
                f"text_config.vocab_size {self.text_config.vocab_size} less pad_to_multiple_of "
                f"{self.pad_to_multiple_of} leaves no room for n_action_bins {self.n_action_bins}"
            )

    def _check_lengths(self, count: int) -> None:
        for name in ("image_sizes", "timm_override_act_layers", "timm_model_kwargs"):
            value = getattr(self, name)
            if value is not None and len(value) != count:
                raise ValueError(f"{name} has {len(value)} entries for {count} timm_model_ids")
        if any(self.timm_override_act_layers or ()):
            raise ValueError(f"timm_override_act_layers is {self.timm_override_act_layers}; it must be null")
        if len(set(self.image_sizes)) != 1:
            raise ValueError(f"image_sizes {self.image_sizes} must be equal")

    def _check_towers(self) -> None:
        for timm_id in self.timm_model_ids:
            if timm_id not in TOWERS:
                raise ValueError(f"unknown tower {timm_id!r} in timm_model_ids; known: {', '.join(TOWERS)}")
        for tower in self.towers():
            if tower.width % tower.heads:
                raise ValueError(
                    f"timm_model_kwargs: embed_dim {tower.width} is no multiple of num_heads {tower.heads}"
                )
        if len({tower.patches for tower in self.towers()}) != 1:
            raise ValueError(f"image_sizes {self.image_sizes} give the towers different numbers of patches")

    def towers(self) -> tuple[Tower, ...]:
        """Return the vision towers in the order of their image channels."""
        overrides = self.timm_model_kwargs or (TowerOverride(),) * len(self.timm_model_ids)
        return tuple(
            _tower(timm_id, size, override)
            for timm_id, size, override in zip(self.timm_model_ids, self.image_sizes, overrides, strict=True)
        )

    @property
    def action_vocab_size(self) -> int:
        """The vocabulary without its padding rows; action tokens are its last ``n_action_bins`` ids."""
        return self.text_config.vocab_size - self.pad_to_multiple_of

    @property
    def action_ids(self) -> range:
        """The token ids of the action bins."""
        return range(self.action_vocab_size - self.n_action_bins, self.action_vocab_size)

    @property
    def patches(self) -> int:
        """How many patch tokens one camera image gives."""
        return self.towers()[0].patches

    @property
    def channels(self) -> int:
        """How many channels one transformed image has: three for each tower."""
        return 3 * len(self.timm_model_ids)


def _tower(timm_id: str, image_size: int, override: TowerOverride) -> Tower:
    stated = {
        "width": override.embed_dim,
        "depth": override.depth,
        "heads": override.num_heads,
        "mlp_ratio": override.mlp_ratio,
    }
    sizes = dict(TOWERS[timm_id]) | {key: value for key, value in stated.items() if value is not None}
    return Tower(timm_id=timm_id, image_size=image_size, **sizes)


_ADAPTER = TypeAdapter(OpenVLAConfig)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``; raises ``CheckpointError`` naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} is no checkpoint: it has no {path.name}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: must hold a JSON object; it holds a {type(value).__name__}")
    return value


def read_config(folder: Path) -> OpenVLAConfig:
    """Return what ``folder/config.json`` says; raises ``CheckpointError`` naming the key and the value."""
    return parse_config(read_json(folder / "config.json"), str(folder / "config.json"))


def parse_config(data: Mapping[str, Any], source: str) -> OpenVLAConfig:
    """Return the configuration in ``data``; ``source`` names it in errors."""
    try:
        return _ADAPTER.validate_json(json.dumps(dict(data)), strict=True)
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, item['loc'])) or 'config'}: {_explain(item)}"
            for item in error.errors(include_url=False)
        ]
        raise CheckpointError(f"{source}: " + "; ".join(lines)) from error


def _explain(item: Any) -> str:
    match item["type"]:
        case "missing":
            return "this key is missing"
        case "value_error":
            return str(item["ctx"]["error"])
        case "unexpected_keyword_argument":
            return "this key is not known here"
        case _:
            return f"{item['msg']} (the value is {item['input']!r})"
