"""A network of the published architecture with random weights, for the benchmarks; nothing is downloaded.

It has the same sizes, types and operations as the published one; its tokens mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from PIL import Image as PILImage

from openvla_ros.model.network.config import OpenVLAConfig, TextConfig, TowerOverride
from openvla_ros.model.network.openvla import OpenVLA
from openvla_ros.preprocessing.image_transform import ImageTransform, TowerTransform

_STD = 0.02  # of the weights: activations neither explode nor vanish
# Of the token embeddings: the next token then depends on the previous one, as in a trained network, and not
# only on the prompt. Otherwise a wrong guess would change nothing and cost nothing.
_EMBEDDING_STD = 0.3


def _config(side: int, text: TextConfig, *towers: TowerOverride) -> OpenVLAConfig:
    return OpenVLAConfig(
        model_type="openvla",
        timm_model_ids=("vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"),
        image_sizes=(side, side),
        use_fused_vision_backbone=True,
        text_config=text,
        timm_model_kwargs=towers or None,
    )


SIZES: Mapping[str, OpenVLAConfig] = {
    # openvla-7b: 7.54 billion parameters.
    "7b": _config(224, TextConfig(vocab_size=32064, pad_token_id=32000)),
    # 155 million parameters: an action takes about a second on one CPU core.
    "small": _config(
        224,
        TextConfig(
            vocab_size=32064,
            hidden_size=768,
            intermediate_size=2048,
            num_hidden_layers=13,
            num_attention_heads=12,
        ),
        *(TowerOverride(embed_dim=192, depth=13, num_heads=3) for _ in range(2)),
    ),
    # For the tests of the benchmarks themselves.
    "tiny": _config(
        56,
        TextConfig(
            vocab_size=1088,
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=2,
            num_attention_heads=2,
        ),
        *(TowerOverride(embed_dim=48, depth=3, num_heads=3) for _ in range(2)),
    ),
}


@torch.no_grad()
def random_network(
    size: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0
) -> OpenVLA:
    """Return the network of ``size`` with random weights on ``device``, without the parts never computed."""
    with torch.device("meta"):
        network = OpenVLA(SIZES[size])
    network.drop_dead_weights()
    network.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            std = _EMBEDDING_STD if "embed_tokens" in name else _STD
            parameter.normal_(std=std, generator=generator)
    # No action ends early by chance: the logits of padding, begin and end are 0, never the highest.
    network.language_model.lm_head.weight[:3] = 0.0
    network.restore_buffers(torch.device(device))
    return network.eval()


def image_transform(size: str) -> ImageTransform:
    """Return the transform of the published checkpoints for images of the network's size."""
    side = SIZES[size].image_sizes[0]
    tower = TowerTransform(
        (side, side), (side, side), PILImage.Resampling.BICUBIC, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    )
    return ImageTransform("resize-naive", (tower, tower))
