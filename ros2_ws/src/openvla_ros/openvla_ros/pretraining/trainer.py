"""Pre-training of a small model in simulation: first seeing, then acting.

It deliberately uses what only a simulator has: ground-truth labels for ``auxiliary_losses``, and the expert's
action in every state that the model itself reaches. The result is an ordinary checkpoint; fine-tuning it
later uses none of this.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from openvla_ros.model.network.openvla import OpenVLA
from openvla_ros.model.network.tokenizer import PromptTokenizer
from openvla_ros.preprocessing.action_tokens import IGNORED, ActionCodec, normalise
from openvla_ros.preprocessing.dataset_statistics import FieldStatistics
from openvla_ros.pretraining.auxiliary_losses import AskedHead, ThingsHead, Whereabouts
from openvla_ros.pretraining.frame_shards import FrameSet, FrameShards
from openvla_ros.pretraining.small_model import MEANS, STDS
from openvla_ros.training.data.token_example import Example, action_example, collate
from openvla_ros.training.distributed import Processes


@dataclass(frozen=True)
class PretrainingOptions:
    """The recipe."""

    batch_size: int = 48
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    soft_bins: float = 4.0  # standard deviation of the target around the right bin, in bins
    pointing_weight: float = 0.3
    distance_weight: float = 1.0
    things_weight: float = 0.4  # of both losses of ``ThingsHead`` while the model learns to act
    half: bool = False  # matrix products in bfloat16: twice as fast where the CPU has instructions for it
    warmup_steps: int = 200
    log_every_s: float = 20.0
    seed: int = 0


@dataclass(frozen=True)
class Span:
    """How long to train: until a number of seconds or steps, whichever is reached first.

    The learning rate follows half a cosine between the two factors ``rates``.
    """

    seconds: float = math.inf
    steps: float = math.inf
    rates: tuple[float, float] = (1.0, 1.0)

    def share(self, seconds: float, steps: int) -> float:
        """Return the elapsed fraction, 0..1 and beyond."""
        return max(seconds / self.seconds, steps / self.steps)

    def rate(self, share: float) -> float:
        """Return the learning-rate factor at the elapsed fraction ``share``."""
        first, last = self.rates
        return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * share))


@dataclass(frozen=True)
class Progress:
    """The state of a run, averaged since the last report."""

    step: int
    samples: int
    share: float  # of the span that is over, 0..1
    numbers: Mapping[str, float]  # losses in nats a token or a pointer, or in 5 cm; shares of right tokens


Report = Callable[[Progress], None]
Pool = tuple[FrameSet | FrameShards, float]  # frames, and their share of every batch


class Pretraining:
    """One training run; each call may have more frames."""

    def __init__(
        self,
        model: OpenVLA,
        tokenizer: PromptTokenizer,
        statistics: FieldStatistics,
        things: int,
        options: PretrainingOptions,
        processes: Processes | None = None,
    ) -> None:
        """Prepare a run; several ``processes`` average their gradients at every step."""
        self.model, self.options = model, options
        self._processes = processes or Processes()
        self._tokenizer, self._statistics = tokenizer, statistics
        self._codec = ActionCodec(model.config.action_vocab_size, model.config.n_action_bins)
        side, width = math.isqrt(model.config.patches), model.config.text_config.hidden_size
        torch.manual_seed(options.seed)
        self._heads = nn.ModuleDict(
            {"things": ThingsHead(width, side, things), "asked": AskedHead(width, side)}
        )
        self._random = np.random.default_rng([options.seed, self._processes.rank])
        self._optimizer = torch.optim.AdamW(
            _groups(model, self._heads, options.weight_decay),
            lr=options.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        self._step = self._samples = 0

    def state(self) -> dict[str, Any]:
        """Return the state needed to resume: weights, heads, optimizer, counts."""
        return {
            "model": self.model.state_dict(),
            "heads": self._heads.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self._step,
            "samples": self._samples,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resume from ``state``."""
        self.model.load_state_dict(state["model"])
        self._heads.load_state_dict(state["heads"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._step, self._samples = state["step"], state["samples"]

    def see(self, frames: FrameSet | FrameShards, span: Span, report: Report) -> None:
        """Train only the towers and the projector, to locate every object in the image."""
        self._loop([(frames, 1.0)], span, report, self._seeing)

    def act(self, pools: Sequence[Pool], span: Span, report: Report) -> None:
        """Train everything to follow instructions."""
        self._loop(pools, span, report, self._acting)

    def _loop(
        self,
        pools: Sequence[Pool],
        span: Span,
        report: Report,
        losses: Callable[[FrameSet], tuple[Tensor, dict[str, Tensor]]],
    ) -> None:
        self.model.train()
        sums: dict[str, float] = {}
        count, started = 0, time.monotonic()
        reported = started
        for done, batch in enumerate(self._batches(pools)):
            share = self._agreed(span.share(time.monotonic() - started, done))
            if share >= 1.0:
                break
            rate = span.rate(share)
            for group in self._optimizer.param_groups:
                group["lr"] = (
                    self.options.learning_rate * rate * min(1.0, (self._step + 1) / self.options.warmup_steps)
                )
            with SinglePrecisionAttention(), torch.autocast("cpu", torch.bfloat16, enabled=self.options.half):
                loss, numbers = losses(batch)
            self._optimizer.zero_grad(set_to_none=True)
            with SinglePrecisionAttention():
                loss.backward()  # type: ignore[no-untyped-call]
            self._average_gradients()
            nn.utils.clip_grad_norm_(self._parameters(), 1.0)
            self._optimizer.step()
            self._step += 1
            self._samples += len(batch) * self._processes.count
            count += 1
            for name, value in numbers.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            if time.monotonic() - reported > self.options.log_every_s:
                means = {name: value / count for name, value in sums.items()}
                report(Progress(self._step, self._samples, share, means))
                sums, count, reported = {}, 0, time.monotonic()

    def _parameters(self) -> list[nn.Parameter]:
        return [*self.model.parameters(), *self._heads.parameters()]

    def _agreed(self, share: float) -> float:
        """Return the first process's ``share``: its clock is everyone's."""
        own = torch.tensor(share if self._processes.is_first else 0.0, dtype=torch.float64)
        return float(self._processes.sum(own))

    def _average_gradients(self) -> None:
        """Make every gradient the mean over the processes."""
        if self._processes.count == 1:
            return
        gradients = [p.grad for p in self._parameters() if p.grad is not None]
        mean = self._processes.sum(nn.utils.parameters_to_vector(gradients)) / self._processes.count
        nn.utils.vector_to_parameters(mean, gradients)

    def _batches(self, pools: Sequence[Pool]) -> Iterator[FrameSet]:
        total = sum(share for _, share in pools)
        sizes = [max(1, round(self.options.batch_size * share / total)) for _, share in pools]
        streams = [self._rows(len(frames), size) for (frames, _), size in zip(pools, sizes, strict=True)]
        while True:
            parts = [frames.take(next(rows)) for (frames, _), rows in zip(pools, streams, strict=True)]
            yield FrameSet.join(parts)

    def _rows(self, count: int, size: int) -> Iterator[np.ndarray]:
        while True:
            order = self._random.permutation(count)
            for start in range(0, count - size + 1, size):
                yield order[start : start + size]

    def _seeing(self, frames: FrameSet) -> tuple[Tensor, dict[str, Tensor]]:
        image = self.model.image_embeddings(to_pixels(torch.from_numpy(frames.images)))
        pointing, distance = self._heads["things"](image, _truth(frames))
        return pointing + distance, {"things": pointing, "things distance": distance}

    def _acting(self, frames: FrameSet) -> tuple[Tensor, dict[str, Tensor]]:
        token_ids, labels = collate(self._examples(frames), self.model.config.pad_token_id)
        token_ids = self._blurred(token_ids, labels)
        image = self.model.image_embeddings(to_pixels(torch.from_numpy(frames.images)))
        hidden = self.model.hidden_states(self.model.join(image, self.model.text_embeddings(token_ids)))
        action_loss, accuracy, gripper = self._action_loss(hidden, labels)
        truth = _truth(frames)
        seen = self._heads["things"](image, truth)
        asked = truth.select(torch.from_numpy(frames.asked))
        pointing, distance = self._heads["asked"](self._prompt_state(hidden, labels), image, asked)
        options = self.options
        loss = action_loss + options.pointing_weight * pointing + options.distance_weight * distance
        return loss + options.things_weight * (seen[0] + seen[1]), {
            "action": action_loss, "within 2 bins": accuracy, "gripper": gripper,
            "pointing": pointing, "distance": distance, "things": seen[0], "things distance": seen[1],
        }  # fmt: skip

    def _blurred(self, token_ids: Tensor, labels: Tensor) -> Tensor:
        """Return ``token_ids`` with noise on the motion tokens, as wide as the soft targets.

        While acting, the model reads its own tokens, a few bins off the right ones. If it saw the exact ones
        in training, it would learn to infer the kind of motion from them.
        """
        ids = self.model.config.action_ids
        is_action = (labels >= ids.start) & (labels < ids.stop)
        dimension = (is_action.cumsum(dim=1) - 1).clamp(0, self._statistics.width - 1)
        is_motion = is_action & torch.from_numpy(np.array(self._statistics.mask))[dimension]
        shift = (torch.randn(token_ids.shape) * self.options.soft_bins).round().long()
        shifted = (token_ids + shift).clamp(ids.start, ids.stop - 1)
        return torch.where(is_motion, shifted, token_ids)

    def _examples(self, frames: FrameSet) -> list[Example]:
        actions = normalise(frames.actions, self._statistics)
        return [
            action_example(self._tokenizer, self._codec, str(words), action)
            for words, action in zip(frames.words, actions, strict=True)
        ]

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
        """Return (B, D, bins) distributions: a bell around the right bin; for the gripper, only that bin."""
        bins = torch.arange(self.model.config.n_action_bins)
        bell = torch.exp(-0.5 * ((bins - right[..., None]) / self.options.soft_bins) ** 2)
        bell = bell / bell.sum(dim=-1, keepdim=True)
        exact = (bins == right[..., None]).float()
        normalised = torch.from_numpy(np.array(self._statistics.mask))[None, :, None]
        return torch.where(normalised, bell, exact)


def to_pixels(images: Tensor) -> Tensor:
    """Return (B, 6, S, S) float32 for uint8 (B, S, S, 3) images: both towers' normalisations."""
    scaled = images.permute(0, 3, 1, 2).float() / 255.0
    parts = [
        (scaled - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        for mean, std in zip(MEANS, STDS, strict=True)
    ]
    return torch.cat(parts, dim=1)


class SinglePrecisionAttention(TorchFunctionMode):
    """Attention in float32 whatever autocast says: its backward pass in bfloat16 is slow on CPUs."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is functional.scaled_dot_product_attention:
            args = [part.float() if isinstance(part, Tensor) else part for part in args]
            with torch.autocast("cpu", enabled=False):
                return function(*args, **kwargs)
        return function(*args, **kwargs)


def _truth(frames: FrameSet) -> Whereabouts:
    return Whereabouts(torch.from_numpy(frames.uv), torch.from_numpy(frames.metres))


def _groups(model: nn.Module, head: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    parameters = [p for p in (*model.parameters(), *head.parameters()) if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
