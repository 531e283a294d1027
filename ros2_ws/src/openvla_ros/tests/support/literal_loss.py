"""The training loss once more: one forward pass, next-token loss on a padded batch, two other metrics.

Only positions with a label go through the output head; the loss is the same, since it is a mean over
exactly those. Padding is on the right, where causal attention never sees it, so no attention mask is
needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from openvla_ros.errors import InvalidValueError
from openvla_ros.model.network.openvla import OpenVLA
from openvla_ros.preprocessing.action_tokens import IGNORED, ActionCodec


@dataclass(frozen=True, eq=False)
class Supervision:
    """Metrics of one batch. Scalars on the model's device; ``loss`` has the gradient."""

    loss: Tensor  # mean cross entropy over all labels, nats
    action_accuracy: Tensor  # share of action tokens predicted exactly, 0..1
    action_l1: Tensor  # mean distance of predicted from true action, normalised units


def supervise(model: OpenVLA, pixels: Tensor, token_ids: Tensor, labels: Tensor) -> Supervision:
    """Return loss, accuracy and L1 distance of a batch.

    ``pixels`` (B, 3 a tower, H, W), ``token_ids`` and ``labels`` (B, L), padded on the right; a label
    is ``IGNORED`` or the id at its own position. Raises ``InvalidValueError`` if all labels are ignored.
    """
    labels = labels.to(model.device)
    hidden = model.hidden_states(model.embed(pixels, token_ids))
    wanted = labels[:, 1:] != IGNORED
    targets = labels[:, 1:][wanted]
    if not len(targets):
        raise InvalidValueError("all labels of this batch are ignored")
    # The state before text token k >= 1 stands at patches + k - 1.
    logits = model.language_model.lm_head(hidden[:, model.config.patches : -1][wanted]).float()
    loss = functional.cross_entropy(logits, targets)
    accuracy, distance = _action_scores(model, logits.detach().argmax(dim=-1), targets)
    return Supervision(loss, accuracy, distance)


def _action_scores(model: OpenVLA, predicted: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    is_action = targets >= model.config.action_ids.start
    predicted, targets = predicted[is_action], targets[is_action]
    centers = _bin_centers(model).to(targets.device)
    distance = (_decode(model, centers, predicted) - _decode(model, centers, targets)).abs().mean()
    return (predicted == targets).double().mean(), distance


def _bin_centers(model: OpenVLA) -> Tensor:
    codec = ActionCodec(model.config.action_vocab_size, model.config.n_action_bins)
    return torch.tensor(codec.centers)


def _decode(model: OpenVLA, centers: Tensor, token_ids: Tensor) -> Tensor:
    index = model.config.action_vocab_size - token_ids - 1
    return centers[index.clamp(0, len(centers) - 1)]
