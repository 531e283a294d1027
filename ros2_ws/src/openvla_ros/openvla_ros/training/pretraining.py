"""Pre-training of a small model in simulation: imitation with soft bins and a loss that makes it look.

What a person could not do and a simulator can is used without shame, and said: ground-truth labels
for ``localisation``, and the expert's answer to every state that the model itself gets into. The
result is an ordinary checkpoint; everything that is learned on top of it later uses none of this.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from openvla_ros.action_codec import ActionCodec, normalise
from openvla_ros.model.openvla import OpenVLA
from openvla_ros.model.supervision import IGNORED
from openvla_ros.model.tokenizer import PromptTokenizer
from openvla_ros.statistics import FieldStatistics
from openvla_ros.training.example import Example, action_example, collate
from openvla_ros.training.frames import FrameSet
from openvla_ros.training.localisation import LocalisationHead, Whereabouts
from openvla_ros.training.small_model import MEANS, STDS


@dataclass(frozen=True)
class PretrainingOptions:
    """The recipe."""

    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warmup_share: float = 0.02
    soft_bins: float = 2.0  # standard deviation of the target around the right bin, in bins
    pointing_weight: float = 0.5
    distance_weight: float = 1.0
    log_every_s: float = 20.0
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """The state of a run, averaged since the last report."""

    step: int
    samples: int
    share: float  # of the time that is over, 0..1
    action_loss: float  # nats a token
    accuracy: float  # of motion tokens within two bins, 0..1
    gripper_accuracy: float
    pointing_loss: float
    distance_loss: float


Report = Callable[[Progress], None]


class Pretraining:
    """One run over a frame set, which may grow between calls of ``run``."""

    def __init__(
        self,
        model: OpenVLA,
        tokenizer: PromptTokenizer,
        statistics: FieldStatistics,
        options: PretrainingOptions,
    ) -> None:
        self.model, self.options = model, options
        self._tokenizer, self._statistics = tokenizer, statistics
        self._codec = ActionCodec(model.config.action_vocab_size, model.config.n_action_bins)
        side = math.isqrt(model.config.patches)
        torch.manual_seed(options.seed)
        self.head = LocalisationHead(model.config.text_config.hidden_size, side)
        self._random = np.random.default_rng(options.seed)
        self._optimizer = torch.optim.AdamW(
            _groups(model, self.head, options.weight_decay),
            lr=options.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        self._step = self._samples = 0

    def run(
        self, frames: FrameSet, seconds: float, first_rate: float, last_rate: float, report: Report
    ) -> None:
        """Train for ``seconds``; the learning rate falls from ``first_rate`` to ``last_rate`` times its own.

        The first call warms up.
        """
        examples = self._examples(frames)
        sums, count, reported = np.zeros(6), 0, time.monotonic()
        started = time.monotonic()
        for rows in self._batches(len(frames)):
            share = (time.monotonic() - started) / seconds
            if share >= 1.0:
                break
            cosine = 0.5 * (1.0 + math.cos(math.pi * share))
            rate = last_rate + (first_rate - last_rate) * cosine
            self._set_rate(rate * min(1.0, (self._step + 1) / 200.0))
            sums += self._train_step(frames, examples, rows)
            count += 1
            if time.monotonic() - reported > self.options.log_every_s:
                report(Progress(self._step, self._samples, share, *(sums[:5] / count).tolist()))
                sums, count, reported = np.zeros(6), 0, time.monotonic()

    def _examples(self, frames: FrameSet) -> list[Example]:
        actions = normalise(frames.actions, self._statistics)
        return [
            action_example(self._tokenizer, self._codec, str(words), action)
            for words, action in zip(frames.words, actions, strict=True)
        ]

    def _batches(self, count: int) -> Iterator[np.ndarray]:
        size = min(self.options.batch_size, count)
        while True:
            order = self._random.permutation(count)
            for start in range(0, count - size + 1, size):
                yield order[start : start + size]

    def _set_rate(self, factor: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self.options.learning_rate * factor

    def _train_step(self, frames: FrameSet, examples: list[Example], rows: np.ndarray) -> np.ndarray:
        self.model.train()
        token_ids, labels = collate([examples[row] for row in rows], self.model.config.pad_token_id)
        image = self.model.image_embeddings(to_pixels(torch.from_numpy(frames.images[rows])))
        hidden = self.model.hidden_states(self.model.join(image, self.model.text_embeddings(token_ids)))
        action_loss, accuracy, gripper = self._action_loss(hidden, labels)
        truth = Whereabouts(torch.from_numpy(frames.picture[rows]), torch.from_numpy(frames.metres[rows]))
        pointing, distance = self.head(self._prompt_state(hidden, labels), image, truth)
        loss = action_loss + self.options.pointing_weight * pointing + self.options.distance_weight * distance
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*self.model.parameters(), *self.head.parameters()], 1.0)
        self._optimizer.step()
        self._step += 1
        self._samples += len(rows)
        with torch.no_grad():
            numbers = [action_loss, accuracy, gripper, pointing, distance, loss]
            return np.array([float(number) for number in numbers])

    def _prompt_state(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Return the state (B, H) at the last token of each prompt."""
        first = (labels != IGNORED).float().argmax(dim=1)
        index = first - 1 + self.model.config.patches
        return hidden[torch.arange(len(hidden)), index]

    def _action_loss(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss over the action tokens and the end, and how many of them are right."""
        wanted = labels[:, 1:] != IGNORED
        targets = labels[:, 1:][wanted]
        logits = self.model.language_model.lm_head(hidden[:, self.model.config.patches : -1][wanted])
        ids = self.model.config.action_ids
        is_action = targets >= ids.start
        log_probability = logits.float().log_softmax(dim=-1)
        hard = functional.nll_loss(log_probability[~is_action], targets[~is_action])
        width = self._statistics.width
        by_bin = log_probability[is_action][:, ids.start : ids.stop].reshape(-1, width, len(ids))
        right = (targets[is_action] - ids.start).reshape(-1, width)
        soft = -(self._soft_targets(right) * by_bin).sum(dim=-1)
        error = (by_bin.argmax(dim=-1) - right).abs()
        return (
            soft.mean() + 0.1 * hard,
            (error[:, :-1] <= 2).float().mean(),
            (error[:, -1] <= 2).float().mean(),
        )

    def _soft_targets(self, right: Tensor) -> Tensor:
        """Return (B, D, bins) distributions: a bell around the right bin; the gripper's is that bin alone."""
        bins = torch.arange(self.model.config.n_action_bins)
        bell = torch.exp(-0.5 * ((bins - right[..., None]) / self.options.soft_bins) ** 2)
        bell = bell / bell.sum(dim=-1, keepdim=True)
        exact = (bins == right[..., None]).float()
        normalised = torch.from_numpy(np.array(self._statistics.mask))[None, :, None]
        return torch.where(normalised, bell, exact)


def to_pixels(images: Tensor) -> Tensor:
    """Return (B, 6, S, S) float32 for uint8 (B, S, S, 3) pictures: both towers' normalisations."""
    scaled = images.permute(0, 3, 1, 2).float() / 255.0
    parts = [
        (scaled - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        for mean, std in zip(MEANS, STDS, strict=True)
    ]
    return torch.cat(parts, dim=1)


def _groups(model: nn.Module, head: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    parameters = [p for p in (*model.parameters(), *head.parameters()) if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
