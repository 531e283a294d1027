"""A small OpenVLA: the same architecture, code and checkpoint format, sized for a laptop's CPU.

Two narrow vision towers, the projector and a short Llama, with a vocabulary of its own that has
Llama's structure: bytes, a word boundary "▁", byte-pair pieces, and at its end the 256 action
tokens. It lets the whole loop run, and be tested, where a 7-billion-parameter model cannot.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers

from openvla_ros.errors import InvalidValueError
from openvla_ros.model.checkpoints.safetensors import SINGLE
from openvla_ros.model.checkpoints.verification import write_checkpoint_sums
from openvla_ros.model.network.config_file import parse_config
from openvla_ros.model.network.openvla import OpenVLA
from openvla_ros.model.network.tokenizer import SPACE

BINS = 256
PADDING = 64  # rows of the vocabulary after the last token, as in the published checkpoints
SPECIAL = ("<unk>", "<s>", "</s>")
TIMM_IDS = ("vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224")
# The published means and deviations of the two towers, rounded to bfloat16 as upstream stores them.
MEANS = ((0.484375, 0.455078125, 0.40625), (0.5, 0.5, 0.5))
STDS = ((0.228515625, 0.2236328125, 0.224609375), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class SmallSize:
    """The model's sizes. Depths include the last vision block, which is never computed."""

    image_size: int = 112  # 8 x 8 patches
    vision_width: int = 96
    vision_depth: int = 4
    vision_heads: int = 3
    text_width: int = 128
    text_depth: int = 3
    text_heads: int = 4
    text_inner: int = 344
    pieces: int = 512  # vocabulary before the action tokens

    @property
    def vocabulary(self) -> int:
        """Number of used ids: pieces, then action tokens."""
        return self.pieces + BINS


def train_tokenizer(texts: Iterable[str], pieces: int) -> Tokenizer:
    """Return a byte-fallback BPE tokenizer of Llama-2's structure with at most ``pieces`` ids."""
    byte_tokens = [f"<0x{value:02X}>" for value in range(256)]
    least = len(SPECIAL) + len(byte_tokens) + 64
    if pieces < least:
        raise InvalidValueError(f"{pieces} pieces are too few for bytes and letters; at least {least} needed")
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=pieces,
        special_tokens=[*SPECIAL, *byte_tokens],
        initial_alphabet=[SPACE],
        show_progress=False,
    )
    # Sorted and word by word, so that the same texts give the same vocabulary and no piece spans words.
    words = sorted({word for text in texts for word in text.split()})
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def small_config(size: SmallSize) -> dict[str, Any]:
    """Return the ``config.json`` of a small model, in the published layout."""
    tower = {"embed_dim": size.vision_width, "depth": size.vision_depth, "num_heads": size.vision_heads}
    return {
        "model_type": "openvla",
        "architectures": ["OpenVLAForActionPrediction"],
        "timm_model_ids": list(TIMM_IDS),
        "timm_model_kwargs": [tower | {"mlp_ratio": 4.0}] * 2,
        "timm_override_act_layers": [None, None],
        "image_sizes": [size.image_size] * 2,
        "use_fused_vision_backbone": True,
        "arch_specifier": "no-align+fused-gelu-mlp",
        "image_resize_strategy": "resize-naive",
        "llm_backbone_id": "small-llama",
        "n_action_bins": BINS,
        "pad_to_multiple_of": PADDING,
        "pad_token_id": size.vocabulary,
        "text_config": {
            "model_type": "llama",
            "vocab_size": size.vocabulary + PADDING,
            "hidden_size": size.text_width,
            "intermediate_size": size.text_inner,
            "num_hidden_layers": size.text_depth,
            "num_attention_heads": size.text_heads,
            "num_key_value_heads": size.text_heads,
            "pad_token_id": size.vocabulary,
        },
    }


def preprocessor_config(size: SmallSize) -> dict[str, Any]:
    """Return the ``preprocessor_config.json`` of a small model."""
    side = size.image_size
    resize = {"size": [side, side], "interpolation": 3, "max_size": None, "antialias": True}
    return {
        "image_processor_type": "PrismaticImageProcessor",
        "image_resize_strategy": "resize-naive",
        "use_fused_vision_backbone": True,
        "input_sizes": [[3, side, side]] * 2,
        "interpolations": ["bicubic"] * 2,
        "means": [list(mean) for mean in MEANS],
        "stds": [list(std) for std in STDS],
        "tvf_resize_params": [resize] * 2,
        "tvf_crop_params": [{"output_size": [side, side]}] * 2,
        "tvf_normalize_params": [
            {"inplace": False, "mean": list(mean), "std": list(std)}
            for mean, std in zip(MEANS, STDS, strict=True)
        ],
        "tvf_do_letterbox": False,
        "tvf_letterbox_fill": None,
    }


def make_small_model(size: SmallSize, seed: int) -> OpenVLA:
    """Return a small model with random weights; the same seed gives the same ones."""
    torch.manual_seed(seed)
    model = OpenVLA(parse_config(small_config(size), "small model"))
    for module in model.vision_backbone.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.trunc_normal_(module.weight, std=0.02)
            torch.nn.init.zeros_(module.bias)
    for name, parameter in model.vision_backbone.named_parameters():
        if name.endswith(("pos_embed", "cls_token", "reg_token")):
            torch.nn.init.trunc_normal_(parameter, std=0.02)
        elif name.endswith(("ls1.scale_factor", "ls2.scale_factor", "ls1.gamma", "ls2.gamma")):
            torch.nn.init.ones_(parameter)
    return model


def save_checkpoint(
    folder: Path,
    model: OpenVLA,
    tokenizer: Tokenizer,
    size: SmallSize,
    statistics: Mapping[str, Any],
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write a small model to ``folder`` in the published layout; ``statistics`` as in norm_stats."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().to(dtype).contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / SINGLE, metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    files = {
        "config.json": small_config(size) | {"norm_stats": dict(statistics), "torch_dtype": "bfloat16"},
        "preprocessor_config.json": preprocessor_config(size),
        "dataset_statistics.json": dict(statistics),
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    write_checkpoint_sums(folder, [*files, SINGLE, "tokenizer.json"])
