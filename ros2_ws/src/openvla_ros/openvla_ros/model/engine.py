"""What the fast decoders run on: vision and language stages of one network, laid out once.

The vision stage serves every prompt; the language stages are made for each length of prompt by the
decoder that needs them. On a CUDA device they are captured graphs, elsewhere the same functions are
called.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openvla_ros.model.captured import Stages, Work, stages_for
from openvla_ros.model.decoding import bin_centers
from openvla_ros.model.openvla import OpenVLA
from openvla_ros.model.pixels import upload
from openvla_ros.model.static_llama import StaticLlama


@dataclass(frozen=True)
class PromptKey:
    """What a language stage is made for; another adapter means other tensors in it."""

    length: int  # embeddings of the prompt, the image's among them
    count: int  # tokens of the action
    adapter: int  # serial number of the active adapter


class Engine:
    """The stages of one network, for one decoder at a time."""

    def __init__(
        self, model: OpenVLA, stages: Stages | None = None, llama: StaticLlama | None = None
    ) -> None:
        self.model = model
        self.stages = stages or stages_for(model.device)
        self.llama = llama or StaticLlama(model)
        self.centers = bin_centers(model)
        self._vision: dict[int, _Vision] = {}  # by the adapter's serial number

    def embed(self, pixels: Tensor, token_ids: Tensor) -> Tensor:
        """Return the joined embeddings (1, L + patches, H) of one image and its prompt (1, L)."""
        text = self.model.text_embeddings(upload(token_ids, self.model.device))
        return self.model.join(self.see(pixels), text)

    def see(self, pixels: Tensor) -> Tensor:
        """Return embeddings (B, patches, H) of (B, 3 a tower, H, W) pixels; the next call overwrites them."""
        serial = self.model.adapter_serial
        vision = self._vision.get(serial)
        if vision is None or vision.pixels.shape != pixels.shape:
            vision = self._vision[serial] = _Vision(self.model, self.stages, pixels.shape)
        vision.pixels.copy_(pixels)
        vision.run()
        return vision.image


class _Vision:
    """Both towers, side by side where the device can, and the projector."""

    def __init__(self, model: OpenVLA, stages: Stages, shape: torch.Size) -> None:
        self._model, self._stages = model, stages
        self.pixels = torch.zeros(shape, dtype=model.dtype, device=model.device)
        tokens, width = model.config.patches, model.config.text_config.hidden_size
        self.image = torch.zeros(shape[0], tokens, width, dtype=model.dtype, device=model.device)
        self.run: Work = stages.prepare(self._see)

    def _see(self) -> None:
        features = self._model.vision_backbone(self.pixels, self._stages.beside)
        self.image.copy_(self._model.projector(features))
