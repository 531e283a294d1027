"""An auxiliary loss that makes a small model look: point at tool, object and destination.

From the state after the prompt, three queries point at image patches and at a place within the
patch, and a regression tells where the things are in metres. The labels are privileged: a simulator
knows them, a robot does not. The heads exist during pre-training only and are never saved.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

POINTS = 3  # tool, object, destination
METRES_SCALE = 20.0  # 5 cm counts as 1: the size of one action


@dataclass(frozen=True, eq=False)
class Whereabouts:
    """Where the three points really are, for a batch."""

    picture: Tensor  # (B, 3, 2) u right and v down, 0..1 within the picture
    metres: Tensor  # (B, 3, 3) in the base frame


class LocalisationHead(nn.Module):
    """Pointers from a text state into the image, and positions in space."""

    def __init__(self, width: int, side: int, key_width: int = 64) -> None:
        super().__init__()
        self.side = side
        self.query = nn.Linear(width, POINTS * key_width)
        self.key = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, key_width))
        self.metres = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, (POINTS - 1) * 3))

    def forward(self, state: Tensor, patches: Tensor, truth: Whereabouts) -> tuple[Tensor, Tensor]:
        """Return the pointing loss (nats) and the distance loss (in 5 cm) of a batch.

        ``state`` (B, H) after the prompt, ``patches`` (B, side², H) row by row.
        """
        queries = self.query(state).unflatten(1, (POINTS, -1))
        logits = queries @ self.key(patches).mT / queries.shape[-1] ** 0.5
        pointing = functional.cross_entropy(logits.flatten(0, 1), self._targets(truth.picture).flatten(0, 1))
        way = (truth.metres[:, 1:] - truth.metres[:, :1]) * METRES_SCALE
        distance = functional.smooth_l1_loss(self.metres(state).unflatten(1, way.shape[1:]), way)
        return pointing, distance

    def _targets(self, picture: Tensor) -> Tensor:
        """Return (B, 3, side²) weights of the four patches around each point, bilinear."""
        position = (picture.clamp(0.0, 1.0) * self.side - 0.5).clamp(0.0, self.side - 1.0)
        corner = position.floor().clamp(max=self.side - 2.0)
        part = position - corner
        weights = torch.zeros(*picture.shape[:2], self.side * self.side, device=picture.device)
        for dv in (0, 1):
            for du in (0, 1):
                share_u = part[..., 0] if du else 1.0 - part[..., 0]
                share_v = part[..., 1] if dv else 1.0 - part[..., 1]
                index = ((corner[..., 1] + dv) * self.side + corner[..., 0] + du).long()
                weights.scatter_add_(-1, index[..., None], (share_u * share_v)[..., None])
        return weights
