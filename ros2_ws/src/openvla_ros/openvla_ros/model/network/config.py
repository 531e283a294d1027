"""The network's configuration: towers, projector, language model, action bins.

The fields are those of the published ``config.json``; ``config_file`` reads one. Invalid values raise a
``ValueError`` that names them. Knows nothing of files, weights or devices.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

# The network is built before its weights are looked for: with the sizes of a damaged file that would not end,
# or torch could not count the elements.
MOST_LAYERS, MOST_WIDTH = 1000, 2**20


@dataclass(frozen=True)
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
        """Number of patch tokens per image."""
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


@dataclass(frozen=True)
class TowerOverride:
    """Sizes that replace a tower's own; the key ``timm_model_kwargs`` of a reduced checkpoint."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}  # other keys would change it

    embed_dim: int | None = None
    depth: int | None = None  # the output is that of the last block but one
    num_heads: int | None = None
    mlp_ratio: float | None = None

    def __post_init__(self) -> None:
        _check_counts(self, "embed_dim", "num_heads", most=MOST_WIDTH)
        _check_counts(self, "depth", least=2, most=MOST_LAYERS)
        _check_positive(self, "mlp_ratio", most=MOST_WIDTH)


@dataclass(frozen=True)
class TextConfig:
    """The language model's sizes; missing ones have the defaults of transformers' ``LlamaConfig``."""

    model_type: Literal["llama"] = "llama"
    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: Literal["silu"] = "silu"
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # how transformers 5 writes the two above
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        _check_counts(self, "vocab_size", "hidden_size", "intermediate_size", most=MOST_WIDTH)
        _check_counts(self, "num_hidden_layers", most=MOST_LAYERS)
        _check_counts(self, "num_attention_heads", "num_key_value_heads", "head_dim", most=MOST_WIDTH)
        _check_counts(self, "max_position_embeddings")
        _check_counts(self, "pad_token_id", least=0, most=self.vocab_size - 1)
        _check_positive(self, "rms_norm_eps", "rope_theta")
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if self.head_dim is None and self.hidden_size % heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of {heads} attention heads")
        if groups is not None and heads % groups:
            raise ValueError(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {groups}")


@dataclass(frozen=True)
class OpenVLAConfig:
    """The parts of ``config.json`` that the network and its decoding depend on."""

    model_type: Literal["openvla", "prismatic"]
    timm_model_ids: tuple[str, ...]  # one or two
    image_sizes: tuple[int, ...]
    use_fused_vision_backbone: bool
    text_config: TextConfig
    arch_specifier: str = "no-align+gelu-mlp"
    timm_override_act_layers: tuple[str | None, ...] | None = None
    timm_model_kwargs: tuple[TowerOverride, ...] | None = None
    output_projector_states: Literal[False] = False
    n_action_bins: int = 256
    pad_to_multiple_of: int = 64  # rows of padding at the end of the vocabulary
    pad_token_id: int = 32000
    image_resize_strategy: Literal["resize-naive", "resize-crop", "letterbox"] = "resize-naive"
    llm_backbone_id: str | None = None
    vision_backbone_id: str | None = None
    norm_stats: dict[str, dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        count = len(self.timm_model_ids)
        if count not in (1, 2):
            raise ValueError(f"timm_model_ids lists {count} towers; there must be one or two")
        _check_counts(self, "n_action_bins", least=2)
        _check_counts(self, "pad_to_multiple_of", "pad_token_id", least=0)
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
                f"text_config.vocab_size {self.text_config.vocab_size} minus pad_to_multiple_of "
                f"{self.pad_to_multiple_of} leaves no room for n_action_bins {self.n_action_bins}"
            )

    def _check_lengths(self, count: int) -> None:
        for name in ("image_sizes", "timm_override_act_layers", "timm_model_kwargs"):
            value = getattr(self, name)
            if value is not None and len(value) != count:
                raise ValueError(f"{name} has {len(value)} entries for {count} timm_model_ids")
        if any(self.timm_override_act_layers or ()):
            raise ValueError(f"timm_override_act_layers is {self.timm_override_act_layers}; it must be null")
        if min(self.image_sizes, default=0) < 1:
            raise ValueError(f"image_sizes is {self.image_sizes}; each must be at least 1")
        if len(set(self.image_sizes)) != 1:
            raise ValueError(f"image_sizes {self.image_sizes} must be equal")

    def _check_towers(self) -> None:
        for timm_id in self.timm_model_ids:
            if timm_id not in TOWERS:
                raise ValueError(f"unknown tower {timm_id!r} in timm_model_ids; known: {', '.join(TOWERS)}")
        for tower in self.towers():
            if tower.width % tower.heads:
                raise ValueError(
                    f"timm_model_kwargs: embed_dim {tower.width} is not a multiple of num_heads {tower.heads}"
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
        """Number of patch tokens per camera image."""
        return self.towers()[0].patches

    @property
    def channels(self) -> int:
        """Number of channels of a transformed image: three per tower."""
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


def _check_counts(owner: object, *names: str, least: int = 1, most: int | None = None) -> None:
    """Raise ``ValueError`` if a field of ``owner`` is given and below ``least`` or above ``most``."""
    for name in names:
        value = getattr(owner, name)
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
        if value is not None and most is not None and value > most:
            raise ValueError(f"{name} is {value}; it must be at most {most}")


def _check_positive(owner: object, *names: str, most: float = sys.float_info.max) -> None:
    """Raise ``ValueError`` if a field of ``owner`` is given and not above 0, or above ``most``."""
    for name in names:
        value = getattr(owner, name)
        if value is not None and not 0.0 < value <= most:
            raise ValueError(f"{name} is {value}; it must be above 0, and at most {most:g}")
