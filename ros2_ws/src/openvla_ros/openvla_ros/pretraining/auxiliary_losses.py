"""Auxiliary losses that teach a small model to locate objects, and those in the instruction.

``ThingsHead`` locates every possible object from the patches alone; ``AskedHead`` points from the state after
the prompt at tool, object and destination of the instruction, and predicts the way to them. The labels are
privileged: a simulator has them, a robot does not. The heads exist only during pre-training and are never
saved.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

METRES_SCALE = 20.0  # 5 cm counts as 1: the size of one action
PRECISE = 0.05  # 2.5 mm: above it an error counts by its length, below by its square
KEY_WIDTH = 64


@dataclass(frozen=True, eq=False)
class Whereabouts:
    """The true positions of P points, for a batch; NaN where there is none."""

    uv: Tensor  # (B, P, 2) u right and v down, 0..1 within the image
    metres: Tensor  # (B, P, 3) in the base frame

    def select(self, asked: Tensor) -> Whereabouts:
        """Return the points whose indices ``asked`` (B, Q) names."""
        rows = torch.arange(len(asked))[:, None]
        return Whereabouts(self.uv[rows, asked], self.metres[rows, asked])


class ThingsHead(nn.Module):
    """Locates ``things`` fixed objects among patches (B, side², H), in the image and in space."""

    def __init__(self, width: int, side: int, things: int) -> None:
        super().__init__()
        self.side = side
        self.query = nn.Parameter(torch.randn(things, KEY_WIDTH) * 0.5)
        self.normalise = nn.LayerNorm(width)
        self.key = nn.Linear(width, KEY_WIDTH)
        self.value = nn.Linear(width, KEY_WIDTH)
        self.metres = nn.Sequential(
            nn.Linear(2 * KEY_WIDTH, 2 * KEY_WIDTH), nn.GELU(), nn.Linear(2 * KEY_WIDTH, 3)
        )

    def forward(self, patches: Tensor, truth: Whereabouts) -> tuple[Tensor, Tensor]:
        """Return the pointing loss (nats) and the distance loss (in 5 cm) over the existing objects."""
        seen = self.normalise(patches)
        logits = self.query @ self.key(seen).mT / KEY_WIDTH**0.5  # (B, T, side²)
        pooled = logits.softmax(dim=-1) @ self.value(seen)  # (B, T, K)
        guess = self.metres(torch.cat([pooled, self.query.expand_as(pooled)], dim=-1))
        there = truth.metres.isfinite().all(dim=-1)
        targets = patch_targets(truth.uv[there], self.side)
        pointing = functional.cross_entropy(logits[there].float(), targets)
        distance = functional.smooth_l1_loss(
            guess[there].float(), truth.metres[there] * METRES_SCALE, beta=PRECISE
        )
        return pointing, distance


class AskedHead(nn.Module):
    """Pointers from a text state (B, H) into the image, and the way from the tool to the other points."""

    def __init__(self, width: int, side: int, points: int = 3) -> None:
        super().__init__()
        self.side, self.points = side, points
        self.query = nn.Linear(width, points * KEY_WIDTH)
        self.key = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, KEY_WIDTH))
        self.way = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, (points - 1) * 3))

    def forward(self, state: Tensor, patches: Tensor, truth: Whereabouts) -> tuple[Tensor, Tensor]:
        """Return the pointing loss (nats) and the distance loss (in 5 cm) of a batch.

        ``patches`` (B, side², H) row by row; the first point of ``truth`` is the tool.
        """
        queries = self.query(state).unflatten(1, (self.points, -1))
        logits = queries @ self.key(patches).mT / KEY_WIDTH**0.5
        targets = patch_targets(truth.uv, self.side)
        pointing = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(0, 1))
        way = (truth.metres[:, 1:] - truth.metres[:, :1]) * METRES_SCALE
        guess = self.way(state).float().unflatten(1, way.shape[1:])
        distance = functional.smooth_l1_loss(guess, way, beta=PRECISE)
        return pointing, distance


def patch_targets(uv: Tensor, side: int) -> Tensor:
    """Return (…, side²) weights, bilinear, of the four patches around each point (…, 2)."""
    position = (uv.clamp(0.0, 1.0) * side - 0.5).clamp(0.0, side - 1.0)
    corner = position.floor().clamp(max=side - 2.0)
    part = position - corner
    weights = torch.zeros(*uv.shape[:-1], side * side, device=uv.device)
    for dv in (0, 1):
        for du in (0, 1):
            share_u = part[..., 0] if du else 1.0 - part[..., 0]
            share_v = part[..., 1] if dv else 1.0 - part[..., 1]
            index = ((corner[..., 1] + dv) * side + corner[..., 0] + du).long()
            weights.scatter_add_(-1, index[..., None], (share_u * share_v)[..., None])
    return weights
