"""A compact Diffusion Policy as a baseline on the same data.

A small convolutional encoder for the image, the mean of word embeddings for the instruction, and a residual
network that denoises a short sequence of actions, step by step.
Method: Chi et al., arXiv 2303.04137; sampling: Song et al., arXiv 2010.02502 (DDIM).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from openvla_ros.errors import PolicyError
from openvla_ros.preprocessing.action_tokens import normalise, unnormalise
from openvla_ros.preprocessing.dataset_statistics import FieldStatistics
from openvla_ros.preprocessing.image_transform import ImageTransform
from openvla_ros.training.data.frame_cache import FrameStore
from openvla_ros.values.action import ActionChunk, ActionSpace
from openvla_ros.values.arrays import Image, Int
from openvla_ros.values.observation import Observation

LONGEST_TEXT = 24  # words of an instruction that are read
BUCKETS = 1024  # into which words are hashed; 0 is "no word"


@dataclass(frozen=True)
class DiffusionOptions:
    """The size of the policy and how it is trained."""

    horizon: int = 8  # actions that are predicted at once
    executed: int = 4  # of them carried out before looking again
    width: int = 256
    noise_steps: int = 50
    sampling_steps: int = 10
    batch_size: int = 64
    steps: int = 3000
    learning_rate: float = 3e-4
    average: float = 0.995  # of the exponential moving average of the weights that acts
    seed: int = 0


class DiffusionNetwork(nn.Module):
    """Predicts a run of normalised actions from a noisy one, an image and words.

    It predicts the actions rather than the noise: with few sampling steps, an error in the noise at the first
    one would determine which of several modes is chosen.
    """

    def __init__(self, options: DiffusionOptions, action_width: int) -> None:
        super().__init__()
        width = options.width
        channels = (3, 32, 64, 128, width)
        layers: list[nn.Module] = []
        for inside, out in pairwise(channels):
            layers += [nn.Conv2d(inside, out, 3, stride=2, padding=1), nn.GroupNorm(8, out), nn.ReLU()]
        self.encoder = nn.Sequential(*layers)
        # Spatial softmax: where each channel is brightest, as in Diffusion Policy's own encoder.
        self.vision = nn.Linear(2 * width, width)
        self.words = nn.EmbeddingBag(BUCKETS, width, mode="mean", padding_idx=0)
        self.words_mixer = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.first = nn.Linear(options.horizon * action_width, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(3))
        self.last = nn.Linear(width, options.horizon * action_width)
        self._shape = (options.horizon, action_width)

    def condition(self, images: Tensor, words: Tensor) -> Tensor:
        """Return (B, width) for images (B, 3, H, W) within -1 .. 1 and hashed words (B, L)."""
        features = self.encoder(images)
        weights = features.flatten(2).softmax(dim=-1)
        height, width = features.shape[-2:]
        rows = torch.linspace(-1, 1, height, device=features.device)
        columns = torch.linspace(-1, 1, width, device=features.device)
        where = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).flatten(1)  # (2, H W)
        seen: Tensor = self.vision((weights @ where.T).flatten(1)) + self.words_mixer(self.words(words))
        return seen

    def forward(self, noisy: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """Return the clean actions (B, T, D) behind ``noisy`` at noise levels (B,) 0..1."""
        half = condition.shape[1] // 2
        rates = torch.exp(-math.log(1e4) * torch.arange(half, device=level.device) / half)
        angles = 1000.0 * level[:, None] * rates
        context = condition + self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        x = self.first(noisy.flatten(1))
        for block in self.blocks:
            x = block(x, context)
        out: Tensor = self.last(x)
        return out.reshape(-1, *self._shape)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.modulation = nn.Linear(width, 2 * width)
        self.inner = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        scale, shift = self.modulation(functional.silu(context)).chunk(2, dim=1)
        out: Tensor = x + self.inner(self.norm(x) * (1 + scale) + shift)
        return out


def remaining_signal(options: DiffusionOptions) -> Tensor:
    """Return the share of signal (noise_steps,) left at each level: the cosine schedule."""
    time = (torch.arange(options.noise_steps) + 1) / options.noise_steps
    return torch.cos((time * 0.98 + 0.008) / 1.008 * math.pi / 2) ** 2


class DiffusionPolicy:
    """Implements ``Policy``: one image and an instruction in, a few actions out."""

    def __init__(
        self,
        network: DiffusionNetwork,
        options: DiffusionOptions,
        transform: ImageTransform,
        statistics: FieldStatistics,
        space: ActionSpace,
        camera: str,
    ) -> None:
        self._network, self._options, self._transform = network.eval(), options, transform
        self._statistics, self._space, self._camera = statistics, space, camera
        self._generator = torch.Generator().manual_seed(options.seed)

    @property
    def space(self) -> ActionSpace:
        """The meaning of the actions that ``infer`` returns."""
        return self._space

    @property
    def description(self) -> str:
        """One line of text."""
        count = sum(parameter.numel() for parameter in self._network.parameters())
        return f"Diffusion Policy, {count / 1e6:.1f} M parameters"

    @torch.no_grad()
    def infer(self, observation: Observation) -> ActionChunk:
        """Return the first actions of one denoised run; raises ``PolicyError`` without the camera."""
        if self._camera not in observation.images:
            raise PolicyError(f"the policy needs camera {self._camera!r}")
        image = self._transform.resized(observation.images[self._camera])
        condition = self._network.condition(to_input([image]), to_words([observation.instruction]))
        actions = self._sampled(condition)[0, : self._options.executed].numpy()
        values = unnormalise(np.clip(actions, -1.0, 1.0), self._statistics)
        within = np.clip(values, self._space.lower, self._space.upper)
        return ActionChunk(within, observation.stamp_ns, self._space)

    def reset(self) -> None:
        """Restart the noise, so that every episode begins with the same."""
        self._generator.manual_seed(self._options.seed)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _sampled(self, condition: Tensor) -> Tensor:
        signal = remaining_signal(self._options)
        shape = (len(condition), self._options.horizon, self._statistics.width)
        x = torch.randn(shape, generator=self._generator)
        levels = torch.linspace(self._options.noise_steps - 1, 0, self._options.sampling_steps).long()
        for number, level in enumerate(levels):
            share = signal[level]
            clean = self._network(x, _level(level[None], self._options), condition).clamp(-1.0, 1.0)
            noise = (x - share.sqrt() * clean) / (1 - share).sqrt()
            after = signal[levels[number + 1]] if number + 1 < len(levels) else torch.tensor(1.0)
            x = after.sqrt() * clean + (1 - after).sqrt() * noise
        return x


def train_diffusion(
    store: FrameStore, statistics: FieldStatistics, options: DiffusionOptions, transform: ImageTransform
) -> DiffusionPolicy:
    """Return a policy that imitates the steps of ``store`` that are not held out."""
    torch.manual_seed(options.seed)
    network = DiffusionNetwork(options, store.space.width)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=1e-4)
    runs = torch.from_numpy(_runs(store, statistics, options.horizon))
    rows, random = store.rows(held_out=False), np.random.default_rng(options.seed)
    signal = remaining_signal(options)
    for _ in range(options.steps):
        chosen = random.choice(rows, options.batch_size)
        condition = network.condition(
            to_input([store.images[row] for row in chosen]),
            to_words([store.instruction(int(row)) for row in chosen]),
        )
        clean = runs[chosen]
        level = torch.randint(options.noise_steps, (len(chosen),))
        share, noise = signal[level][:, None, None], torch.randn_like(clean)
        noisy = share.sqrt() * clean + (1 - share).sqrt() * noise
        loss = functional.mse_loss(network(noisy, _level(level, options), condition), clean)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        for name, value in network.state_dict().items():
            average[name].lerp_(value, 1.0 - options.average)
    network.load_state_dict(average)
    return DiffusionPolicy(network, options, transform, statistics, store.space, store.camera)


def to_input(images: Sequence[Image]) -> Tensor:
    """Return (B, 3, H, W) float32 within -1 .. 1 for uint8 images (H, W, 3)."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_words(texts: Sequence[str]) -> Tensor:
    """Return the hashed words (B, LONGEST_TEXT) of instructions, 0 where there is none."""
    rows = torch.zeros(len(texts), LONGEST_TEXT, dtype=torch.long)
    for row, text in enumerate(texts):
        for column, word in enumerate(text.lower().split()[:LONGEST_TEXT]):
            rows[row, column] = 1 + zlib.crc32(word.encode()) % (BUCKETS - 1)
    return rows


def _level(level: Tensor, options: DiffusionOptions) -> Tensor:
    return (level.float() + 1.0) / options.noise_steps


def _runs(store: FrameStore, statistics: FieldStatistics, horizon: int) -> NDArray[np.float32]:
    """Return the next ``horizon`` actions (N, T, D) after each step, the last one repeated at an end."""
    actions = normalise(store.actions, statistics)
    index = np.arange(len(store))[:, None] + np.arange(horizon)
    last: Int = np.zeros(len(store), np.int64)
    for span in store.spans:
        last[span.start : span.stop] = span.stop - 1
    runs: NDArray[np.float32] = actions[np.minimum(index, last[:, None])]
    return runs
