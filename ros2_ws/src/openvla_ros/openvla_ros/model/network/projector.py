"""The projector: patch features to embeddings of the language model's width."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Projector(nn.Module):
    """An MLP with exact GELU: three layers behind two towers, two layers behind one."""

    def __init__(self, vision_width: int, text_width: int, fused: bool) -> None:
        super().__init__()
        if fused:
            self.fc1 = nn.Linear(vision_width, 4 * vision_width)
            self.fc2 = nn.Linear(4 * vision_width, text_width)
            self.fc3 = nn.Linear(text_width, text_width)
        else:
            self.fc1 = nn.Linear(vision_width, text_width)
            self.fc2 = nn.Linear(text_width, text_width)

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, patches, text width) for (B, patches, vision width)."""
        x: Tensor = self.fc2(functional.gelu(self.fc1(features)))
        if hasattr(self, "fc3"):
            x = self.fc3(functional.gelu(x))
        return x
