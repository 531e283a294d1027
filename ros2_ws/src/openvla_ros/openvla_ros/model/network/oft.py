"""OpenVLA-OFT: a whole chunk of actions in one pass, by regression.

The prompt is followed by one zeroed embedding for each number of the chunk; attention is bidirectional,
and a head maps the final hidden states to actions. Optional: several images, proprioception as one more
token, and FiLM, which lets the instruction modulate the vision towers.
Paper: Kim, Finn, Liang, arXiv 2502.19645; layout as in moojink/openvla-oft.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from openvla_ros.errors import InvalidValueError
from openvla_ros.model.network.openvla import OpenVLA
from openvla_ros.model.network.tokenizer import EOS_ID
from openvla_ros.model.network.vision_towers import Beside, VisionTower, in_turn
from openvla_ros.preprocessing.action_tokens import Bounds


@dataclass(frozen=True)
class OFTLayout:
    """Inputs and outputs of an OpenVLA-OFT checkpoint; no file of the original states them."""

    chunk: int  # actions a prediction
    action_width: int
    bounds: Bounds  # what actions and proprioception are normalised with
    images: int  # images a prediction takes
    proprio_width: int | None = None  # None: no proprioception
    film: bool = False
    regression: bool = True  # False: action tokens instead of the L1 head

    def __post_init__(self) -> None:
        for name in ("chunk", "action_width", "images"):
            if getattr(self, name) < 1:
                raise InvalidValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @property
    def slots(self) -> int:
        """Number of values per prediction."""
        return self.chunk * self.action_width


# prismatic/vla/constants.py of openvla-oft, and the images of its published checkpoints.
PLATFORMS = {
    "libero": OFTLayout(chunk=8, action_width=7, bounds="quantiles", images=2),
    "bridge": OFTLayout(chunk=5, action_width=7, bounds="quantiles", images=1),
    "aloha": OFTLayout(chunk=25, action_width=14, bounds="extremes", images=3),
}


class ResidualBlock(nn.Module):
    """LayerNorm, linear layer, ReLU, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., width) for (..., width)."""
        out: Tensor = x + self.ffn(x)
        return out


class ResidualMlp(nn.Module):
    """The body of the action head."""

    def __init__(self, inside: int, hidden: int, outside: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(inside)
        self.fc1 = nn.Linear(inside, hidden)
        self.mlp_resnet_blocks = nn.ModuleList(ResidualBlock(hidden) for _ in range(2))
        self.layer_norm2 = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, outside)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., outside) for (..., inside)."""
        x = functional.relu(self.fc1(self.layer_norm1(x)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        out: Tensor = self.fc2(self.layer_norm2(x))
        return out


class RegressionHead(nn.Module):
    """Maps the hidden states of each action's slots to that action."""

    def __init__(self, width: int, action_width: int) -> None:
        super().__init__()
        self.model = ResidualMlp(width * action_width, width, action_width)

    def forward(self, hidden: Tensor, chunk: int) -> Tensor:
        """Return normalised actions (B, chunk, D) of hidden states (B, chunk * D, H)."""
        out: Tensor = self.model(hidden.reshape(len(hidden), chunk, -1))
        return out


class ProprioProjector(nn.Module):
    """Turns proprioception into one embedding."""

    def __init__(self, width: int, proprio_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(proprio_width, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, proprio: Tensor) -> Tensor:
        """Return (B, H) for normalised proprioception (B, P)."""
        out: Tensor = self.fc2(functional.gelu(self.fc1(proprio)))
        return out


class FilmBlock(nn.Module):
    """Scale and shift of one vision block, from the mean embedding of the instruction."""

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.scale = nn.Linear(text_width, width)
        self.shift = nn.Linear(text_width, width)

    def forward(self, x: Tensor, language: Tensor) -> Tensor:
        """Return modulated tokens (B, N, C) for the mean embedding (B, H)."""
        out: Tensor = x * (1 + self.scale(language)[:, None]) + self.shift(language)[:, None]
        return out


class FilmTower(nn.Module):
    """FiLM for the blocks of one tower that are computed."""

    def __init__(self, tower: VisionTower, text_width: int) -> None:
        super().__init__()
        blocks = tower.tower.depth - 1
        self.blocks = nn.ModuleList(FilmBlock(tower.tower.width, text_width) for _ in range(blocks))

    def forward(self, tower: VisionTower, pixels: Tensor, language: Tensor) -> Tensor:
        """Return patch features (B, patches, C), modulated between attention and MLP of each block."""
        x = tower.embed(pixels)
        for block, film in zip(tower.live_blocks(), self.blocks, strict=True):
            x = block.feed_forward(film(block.attend(x), language))  # type: ignore[operator]
        return x[:, tower.prefix_tokens :]


class OpenVLAOFT(nn.Module):
    """The network with the parts that OpenVLA-OFT adds to it."""

    def __init__(self, network: OpenVLA, layout: OFTLayout) -> None:
        super().__init__()
        width = network.config.text_config.hidden_size
        self.layout = layout
        self.network = network
        if layout.regression:
            self.action_head = RegressionHead(width, layout.action_width)
        if layout.proprio_width is not None:
            self.proprio_projector = ProprioProjector(width, layout.proprio_width)
        if layout.film:
            self.film = nn.ModuleList(FilmTower(tower, width) for tower in network.vision_backbone.towers())

    @torch.inference_mode()
    def predict(self, pixels: Tensor, token_ids: Tensor, proprio: Tensor | None = None) -> Tensor:
        """Return the chunk for one moment, in the form of ``read``.

        ``pixels`` (images, 3 a tower, H, W), ``token_ids`` (1, L) of the prompt and, where the
        checkpoint takes it, normalised ``proprio`` (1, P). Raises ``InvalidValueError`` for missing or extra
        inputs.
        """
        self.check(pixels, proprio)
        hidden = self._look_both_ways(self.embed(pixels, token_ids, proprio))
        return self.read(hidden[0, -self.rows :])

    @property
    def rows(self) -> int:
        """Number of final hidden states that ``read`` needs: from one before the first slot to the end."""
        return self.layout.slots + 2

    def read(self, hidden: Tensor) -> Tensor:
        """Return normalised actions (chunk, D) of the last ``rows`` hidden states (rows, H).

        A checkpoint without a regression head gives logits (chunk * D, vocabulary). Each slot is read
        one position before it.
        """
        slots = hidden[: self.layout.slots]
        if not self.layout.regression:
            logits: Tensor = self.network.language_model.lm_head(slots)
            return logits
        actions: Tensor = self.action_head(slots[None], self.layout.chunk)
        return actions[0]

    def embed(
        self, pixels: Tensor, token_ids: Tensor, proprio: Tensor | None, beside: Beside = in_turn
    ) -> Tensor:
        """Return the embedded sequence (1, N, H): BOS, patches, state, prompt, empty slots, end."""
        prompt = self.network.text_embeddings(token_ids)
        end = self.network.text_embeddings(torch.full_like(token_ids[:, :1], EOS_ID))
        patches = self._patches(pixels, torch.cat([prompt, end], dim=1).mean(dim=1), beside)
        if proprio is not None:
            state = proprio.to(self.network.device, self.network.dtype)
            patches = torch.cat([patches, self.proprio_projector(state)[:, None]], dim=1)
        slots = prompt.new_zeros(len(prompt), self.layout.slots, prompt.shape[2])
        return self.network.join(patches, torch.cat([prompt, slots, end], dim=1))

    def check(self, pixels: Tensor, proprio: Tensor | None) -> None:
        """Raise ``InvalidValueError`` for missing or extra inputs."""
        if len(pixels) != self.layout.images:
            raise InvalidValueError(f"got {len(pixels)} images; this model takes {self.layout.images}")
        width = None if proprio is None else proprio.shape[-1]
        if width != self.layout.proprio_width:
            raise InvalidValueError(
                f"got proprioception of width {width}; this model takes {self.layout.proprio_width}"
            )

    def _patches(self, pixels: Tensor, language: Tensor, beside: Beside) -> Tensor:
        """Return the projected patches of all images in a row (1, images * patches, H)."""
        backbone = self.network.vision_backbone
        pixels = pixels.to(self.network.device, self.network.dtype)
        features = backbone(pixels, beside, self._towers(language.expand(len(pixels), -1)))
        projected: Tensor = self.network.projector(features)
        return projected.flatten(0, 1)[None]

    def _towers(self, language: Tensor) -> list[Callable[[Tensor], Tensor]]:
        """Return the functions for each tower's features; with FiLM, these use the mean embedding too."""
        towers = self.network.vision_backbone.towers()
        if not self.layout.film:
            return list(towers)
        pairs = zip(self.film, towers, strict=True)
        return [partial(self._film_features, film, tower, language) for film, tower in pairs]

    @staticmethod
    def _film_features(film: nn.Module, tower: VisionTower, language: Tensor, pixels: Tensor) -> Tensor:
        features: Tensor = film(tower, pixels, language)
        return features

    def _look_both_ways(self, embeddings: Tensor) -> Tensor:
        length = embeddings.shape[1]
        everything = torch.ones(1, 1, length, length, dtype=torch.bool, device=embeddings.device)
        output = self.network.language_model.model(
            inputs_embeds=embeddings, attention_mask=everything, use_cache=False
        )
        hidden: Tensor = output.last_hidden_state
        return hidden
