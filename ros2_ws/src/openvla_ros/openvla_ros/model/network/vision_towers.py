"""The vision towers: DINOv2 with registers and SigLIP, in plain torch, with the published key names.

The features are the patch tokens after the last block but one, without the final norm. The last
block, the norm and the attention pool are in every published checkpoint but never used: they exist here
so that their keys are checked, and ``drop_dead_weights`` drops them.
Architecture: Dosovitskiy et al., arXiv 2010.11929; registers: Darcet et al., arXiv 2309.16588.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from openvla_ros.errors import InvalidValueError
from openvla_ros.model.network.config import Tower

# Returns the results of two computations that do not depend on each other.
Beside = Callable[[Callable[[], Tensor], Callable[[], Tensor]], tuple[Tensor, Tensor]]

EPS = 1e-6  # timm's LayerNorm for these towers; torch's own default is 1e-5


class Attention(nn.Module):
    """Multi-head self-attention with one matrix for query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended (B, N, C) tokens."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(attended.transpose(1, 2).reshape(batch, tokens, width))
        return out


class Mlp(nn.Module):
    """Two layers with the exact (error function) GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, N, C) for (B, N, C)."""
        out: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class LayerScale(nn.Module):
    """A learned factor for each channel; published as ``scale_factor``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` scaled channel by channel."""
        return x * self.scale_factor


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(tower.width, eps=EPS)
        self.attn = Attention(tower.width, tower.heads)
        self.ls1 = LayerScale(tower.width) if tower.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(tower.width, eps=EPS)
        self.mlp = Mlp(tower.width, tower.hidden_width)
        self.ls2 = LayerScale(tower.width) if tower.layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the (B, N, C) tokens after this block."""
        return self.feed_forward(self.attend(x))

    def attend(self, x: Tensor) -> Tensor:
        """Return the tokens after the attention half."""
        out: Tensor = x + self.ls1(self.attn(self.norm1(x)))
        return out

    def feed_forward(self, x: Tensor) -> Tensor:
        """Return the tokens after the MLP half."""
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


class PatchEmbed(nn.Module):
    """Cuts an image into patches and embeds each."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, tower.width, kernel_size=tower.patch_size, stride=tower.patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (B, patches, C), row by row, for (B, 3, H, W)."""
        out: Tensor = self.proj(pixels).flatten(2).transpose(1, 2)
        return out


class AttentionPool(nn.Module):
    """The parameters of SigLIP's pooling head, which OpenVLA never uses."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.latent = nn.Parameter(torch.zeros(1, 1, tower.width))
        self.q = nn.Linear(tower.width, tower.width)
        self.kv = nn.Linear(tower.width, 2 * tower.width)
        self.proj = nn.Linear(tower.width, tower.width)
        self.norm = nn.LayerNorm(tower.width, eps=EPS)
        self.mlp = Mlp(tower.width, tower.hidden_width)


class VisionTower(nn.Module):
    """One vision transformer up to its last block but one."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower
        if tower.class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, tower.width))
        if tower.registers:
            self.reg_token = nn.Parameter(torch.zeros(1, tower.registers, tower.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tower.patches, tower.width))
        self.patch_embed = PatchEmbed(tower)
        self.blocks = nn.ModuleList(Block(tower) for _ in range(tower.depth))
        self.norm = nn.LayerNorm(tower.width, eps=EPS)
        if tower.attention_pool:
            self.attn_pool = AttentionPool(tower)

    @property
    def prefix_tokens(self) -> int:
        """Number of tokens before the patches."""
        return int(self.tower.class_token) + self.tower.registers

    def live_blocks(self) -> nn.ModuleList:
        """Return the blocks that are computed: all but the last."""
        return self.blocks[: self.tower.depth - 1]

    def drop_dead_weights(self) -> None:
        """Drop the parameters that are never used."""
        self.blocks = self.live_blocks()
        del self.norm
        if self.tower.attention_pool:
            del self.attn_pool

    def embed(self, pixels: Tensor) -> Tensor:
        """Return (B, prefix + patches, C); only patches have position embeddings."""
        x = self.patch_embed(pixels) + self.pos_embed
        prefix = [getattr(self, name) for name in ("cls_token", "reg_token") if hasattr(self, name)]
        return torch.cat([token.expand(len(x), -1, -1) for token in prefix] + [x], dim=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return patch features (B, patches, C) for (B, 3, H, W) normalised pixels."""
        x = self.embed(pixels)
        for block in self.live_blocks():
            x = block(x)
        return x[:, self.prefix_tokens :]


def in_turn(first: Callable[[], Tensor], second: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """Return both results, computed one after the other."""
    return first(), second()


class VisionBackbone(nn.Module):
    """One or two towers whose patch features are concatenated channel by channel."""

    def __init__(self, towers: tuple[Tower, ...]) -> None:
        super().__init__()
        self.featurizer = VisionTower(towers[0])
        if len(towers) == 2:
            self.fused_featurizer = VisionTower(towers[1])

    def towers(self) -> tuple[VisionTower, ...]:
        """Return the towers in the order of their image channels."""
        if hasattr(self, "fused_featurizer"):
            return self.featurizer, self.fused_featurizer
        return (self.featurizer,)

    @property
    def width(self) -> int:
        """Channels of one patch feature."""
        return sum(tower.tower.width for tower in self.towers())

    def drop_dead_weights(self) -> None:
        """Drop the parameters that are never used."""
        for tower in self.towers():
            tower.drop_dead_weights()

    def forward(
        self,
        pixels: Tensor,
        beside: Beside = in_turn,
        towers: Sequence[Callable[[Tensor], Tensor]] | None = None,
    ) -> Tensor:
        """Return (B, patches, width) for (B, 3 a tower, H, W) pixels.

        ``beside`` computes the features of both towers, possibly in parallel; ``towers`` replace
        them. Raises ``InvalidValueError`` if the number of channels or the image size is wrong.
        """
        count, size = len(self.towers()), self.featurizer.tower.image_size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3 * count, size, size):
            raise InvalidValueError(
                f"pixels have shape {tuple(pixels.shape)}; they must be (B, {3 * count}, {size}, {size})"
            )
        compute = self.towers() if towers is None else towers
        if count == 1:
            return compute[0](pixels)
        first, second = torch.chunk(pixels, 2, dim=1)
        return torch.cat(beside(partial(compute[0], first), partial(compute[1], second)), dim=2)
