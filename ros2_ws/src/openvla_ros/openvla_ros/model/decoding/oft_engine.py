"""OpenVLA-OFT on the engine: a whole chunk of actions as one stage, from pixels to the action head.

The same arithmetic as ``OpenVLAOFT.predict``; on a CUDA device one captured graph for each prompt length,
replayed with one launch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openvla_ros.model.decoding.engine import Engine, PromptKey
from openvla_ros.model.decoding.greedy import COLUMNS, action_table
from openvla_ros.model.decoding.prompt_stages import PromptStages
from openvla_ros.model.network.oft import OpenVLAOFT
from openvla_ros.model.network.pixels import upload


class ChunkEngine:
    """Predicts chunks with one OFT model."""

    def __init__(self, model: OpenVLAOFT, engine: Engine) -> None:
        self.model = model
        self.engine = engine
        self.prompts: PromptStages[_Chunk] = PromptStages(engine, self._lay_out)

    @torch.inference_mode()
    def predict(self, pixels: Tensor, token_ids: Tensor, proprio: Tensor | None = None) -> Tensor:
        """Return, on the CPU, normalised actions (chunk, D) for one moment.

        A checkpoint without a regression head gives an action table (chunk * D, COLUMNS). Inputs and
        errors as those of ``OpenVLAOFT.predict``.
        """
        self.model.check(pixels, proprio)
        chunk = self.prompts.of(self._around + token_ids.shape[1], 1)
        chunk.pixels.copy_(pixels)
        chunk.token_ids.copy_(upload(token_ids, chunk.token_ids.device))
        if chunk.proprio is not None and proprio is not None:
            chunk.proprio.copy_(upload(proprio, chunk.proprio.device))
        chunk.run()
        return self.engine.stages.read(chunk.out)

    @torch.inference_mode()
    def prepare(self, text_tokens: int) -> bool:
        """Prepare (on CUDA: capture) the stage for prompts of this length; True if it had to be captured."""
        return self.prompts.prepare(self._around + text_tokens, 1)

    @property
    def _around(self) -> int:
        """Number of embeddings in a sequence other than the prompt's: patches, state, slots, end."""
        layout = self.model.layout
        patches = self.model.network.config.patches * layout.images
        return patches + (layout.proprio_width is not None) + layout.slots + 1

    def _lay_out(self, key: PromptKey) -> _Chunk:
        return _Chunk(self.model, self.engine, key.length - self._around)


class _Chunk:
    """The tensors and the stage of one prompt length."""

    def __init__(self, model: OpenVLAOFT, engine: Engine, text_tokens: int) -> None:
        network, layout = model.network, model.layout
        config, device, dtype = network.config, network.device, network.dtype
        size = config.image_sizes[0]
        self._model, self._engine = model, engine
        self.pixels = torch.zeros(layout.images, config.channels, size, size, dtype=dtype, device=device)
        self.token_ids = torch.zeros(1, text_tokens, dtype=torch.int64, device=device)
        width = layout.proprio_width
        self.proprio = None if width is None else torch.zeros(1, width, dtype=dtype, device=device)
        self.out = (
            torch.zeros(layout.chunk, layout.action_width, dtype=torch.float32, device=device)
            if layout.regression
            else torch.zeros(layout.slots, COLUMNS, dtype=torch.float64, device=device)
        )
        self.run = engine.stages.prepare(self._fill)

    def _compute(self) -> Tensor:
        model, engine = self._model, self._engine
        embeddings = model.embed(self.pixels, self.token_ids, self.proprio, engine.stages.beside)
        hidden = engine.llama.hidden(embeddings[0], start=0, rows=model.rows, one_way=False)
        read = model.read(hidden)
        if model.layout.regression:
            return read.float()
        return action_table(model.network, read, read.argmax(dim=-1), engine.centers)

    def _fill(self) -> None:
        self.out.copy_(self._compute())
