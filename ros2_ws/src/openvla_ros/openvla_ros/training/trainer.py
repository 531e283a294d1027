"""The training loop's step: loss, gradients, checks, update. Knows nothing of files and data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from openvla_ros.errors import TrainingError
from openvla_ros.model.network.openvla import OpenVLA
from openvla_ros.preprocessing.action_tokens import ActionCodec
from openvla_ros.training.data.batch import Batch
from openvla_ros.training.distributed import Processes, gradients_kept_local, share
from openvla_ros.training.loss import LossNetwork, TokenLosses
from openvla_ros.training.recipe import ADAPTERS, Recipe
from openvla_ros.training.trainable import trained_parameters


@dataclass(frozen=True)
class Scores:
    """Metrics over some examples, from all processes."""

    loss: float  # mean cross entropy over all labels, nats
    action_loss: float  # over the labels of actions; NaN without any
    words_loss: float  # over the labels of answers in words; NaN without any
    accuracy: float  # share of action tokens predicted exactly, 0..1
    distance: tuple[float, ...]  # (D,) mean distance of predicted from true action, normalised units

    @property
    def l1(self) -> float:
        """The mean distance over all dimensions."""
        return sum(self.distance) / len(self.distance)


@dataclass(frozen=True)
class StepResult:
    """One optimizer step."""

    scores: Scores
    gradient_norm: float
    learning_rate: float


class Trainer:
    """A network that is being trained."""

    def __init__(
        self, network: OpenVLA, recipe: Recipe, width: int, processes: Processes | None = None
    ) -> None:
        """Train what ``make_trainable`` left trainable in ``network``; actions have ``width`` dimensions."""
        self.network, self.recipe, self.processes = network, recipe, processes or Processes()
        self._low = None if network.device.type == "cpu" else torch.bfloat16
        sharded = recipe.method not in ADAPTERS
        self.module: nn.Module = share(LossNetwork(network), self.processes, sharded=sharded, low=self._low)
        self.parameters = trained_parameters(network)
        self._scorer = _Scorer(network, width)
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=recipe.rate,
            weight_decay=recipe.weight_decay,
            fused=not self._is_sharded,
        )

    @property
    def _is_sharded(self) -> bool:
        return self.processes.count > 1 and self.recipe.method not in ADAPTERS

    def losses(self, batch: Batch) -> TokenLosses:
        """Return the loss of every labelled token of ``batch``."""
        batch = batch.to(self.network.device)
        with self._autocast():
            return TokenLosses(*self.module(batch.pixels, batch.token_ids, batch.labels, batch.is_action))

    def gradients(self, batch: Batch) -> Scores:
        """Set the gradients of the mean loss over this process's part and all others'."""
        self.module.train()
        self.optimizer.zero_grad(set_to_none=True)
        labels = (batch.labels[:, 1:] >= 0).sum().to(self.network.device)
        total = self.processes.sum(labels)
        pieces = batch.split(self.recipe.micro_batch or len(batch))
        sums = self._scorer.zero()
        for number, piece in enumerate(pieces):
            with gradients_kept_local(self.module, number + 1 < len(pieces)):
                losses = self.losses(piece)
                # The wrappers average gradients over the processes; the loss is a mean over all labels.
                loss = losses.cross_entropy.sum() * (self.processes.count / total)
                torch.autograd.backward(loss)
            sums += self._scorer.sums(losses)
        return self._scorer.scores(self.processes.sum(sums))

    def step(self, batch: Batch, number: int) -> StepResult:
        """Take optimizer step ``number``, from 0.

        Raises ``TrainingError`` if the loss or a gradient is not finite; nothing is updated then.
        """
        scores = self.gradients(batch)
        norm = self._gradient_norm()
        if not (math.isfinite(scores.loss) and math.isfinite(norm)):
            raise TrainingError(f"step {number}: loss {scores.loss}, gradient norm {norm}")
        if self.recipe.clip_norm is not None and norm > self.recipe.clip_norm:
            for parameter in self.parameters.values():
                assert parameter.grad is not None
                parameter.grad.mul_(self.recipe.clip_norm / norm)
        rate = self.recipe.rate_at(number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return StepResult(scores, norm, rate)

    def try_memory(self, batch: Batch) -> None:
        """Compute the gradients of ``batch`` and discard them: raises if an allocation fails."""
        try:
            torch.autograd.backward(self.losses(batch).cross_entropy.sum())
        finally:
            self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def evaluate(self, batches: Iterator[tuple[Batch, bool]]) -> Scores:
        """Return the scores over those of ``batches`` whose flag is true, without dropout."""
        self.module.eval()
        sums = self._scorer.zero()
        for batch, counts in batches:
            losses = self.losses(batch)
            if counts:
                sums += self._scorer.sums(losses)
        return self._scorer.scores(self.processes.sum(sums))

    def _gradient_norm(self) -> float:
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        if self._low is None or self._is_sharded:
            yield
        else:
            with torch.autocast(self.network.device.type, dtype=self._low):
                yield


class _Scorer:
    """Sums over batches and processes, and the resulting scores."""

    def __init__(self, network: OpenVLA, width: int) -> None:
        config = network.config
        codec = ActionCodec(config.action_vocab_size, config.n_action_bins)
        self._width, self._last = width, config.action_vocab_size - 1
        self._centers = torch.tensor(codec.centers, device=network.device)

    def zero(self) -> Tensor:
        return torch.zeros(5 + self._width, dtype=torch.float64, device=self._centers.device)

    def sums(self, losses: TokenLosses) -> Tensor:
        """Return [action loss, action labels, words loss, words labels, tokens right, distances (D,)]."""
        cross_entropy, action = losses.cross_entropy.detach().double(), losses.is_action
        # Of each action example the last label is the end of sequence; the others are bins.
        bins = action.clone()
        bins[action] = (torch.arange(int(action.sum()), device=action.device) + 1) % (self._width + 1) != 0
        predicted, target = losses.predicted[bins], losses.target[bins]
        distance = (self._decoded(predicted) - self._decoded(target)).abs().reshape(-1, self._width)
        parts = [
            cross_entropy[action].sum(),
            action.sum(),
            cross_entropy[~action].sum(),
            (~action).sum(),
            (predicted == target).sum(),
        ]
        return torch.cat([torch.stack([part.double() for part in parts]), distance.sum(dim=0)])

    def scores(self, sums: Tensor) -> Scores:
        action, actions, words, answers, right, *distance = sums.tolist()
        examples = actions / (self._width + 1)

        def mean(total: float, count: float) -> float:
            return total / count if count else math.nan

        return Scores(
            loss=mean(action + words, actions + answers),
            action_loss=mean(action, actions),
            words_loss=mean(words, answers),
            accuracy=mean(right, examples * self._width),
            distance=tuple(mean(value, examples) for value in distance),
        )

    def _decoded(self, token_ids: Tensor) -> Tensor:
        return self._centers[(self._last - token_ids).clamp(0, len(self._centers) - 1)]
