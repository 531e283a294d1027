"""OpenVLA-OFT on the engine: a whole chunk of actions as one stage, from the pixels to the head.

The same arithmetic as ``OpenVLAOFT.predict``; on a CUDA device one captured graph for each length of
prompt, replayed with one launch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openvla_ros.model.captured import Recent
from openvla_ros.model.decoding import action_table
from openvla_ros.model.engine import Engine
from openvla_ros.model.oft import OpenVLAOFT
from openvla_ros.model.pixels import upload


class ChunkEngine:
    """Predicts chunks with one OFT model."""

    def __init__(self, model: OpenVLAOFT, engine: Engine) -> None:
        self.model = model
        self.engine = engine
        self._chunks: Recent[tuple[torch.Size, int], _Chunk] = Recent(self._lay_out)

    @torch.inference_mode()
    def predict(self, pixels: Tensor, token_ids: Tensor, proprio: Tensor | None = None) -> Tensor:
        """Return, on the CPU, normalised actions (chunk, D) for one moment.

        A checkpoint without a regression head gives an action table (chunk * D, COLUMNS). Inputs and
        errors as those of ``OpenVLAOFT.predict``.
        """
        self.model.check(pixels, proprio)
        layout, length = self.model.layout, token_ids.shape[1]
        patches = self.model.network.config.patches * layout.images
        tokens = patches + length + layout.slots + 1 + (layout.proprio_width is not None)
        self.engine.llama.reserve(tokens)
        chunk = self._chunks[token_ids.shape, self.engine.llama.capacity]
        chunk.pixels.copy_(pixels)
        chunk.token_ids.copy_(upload(token_ids, chunk.token_ids.device))
        if chunk.proprio is not None and proprio is not None:
            chunk.proprio.copy_(upload(proprio, chunk.proprio.device))
        chunk.run()
        return self.engine.stages.read(chunk.out)

    def _lay_out(self, key: tuple[torch.Size, int]) -> _Chunk:
        return _Chunk(self.model, self.engine, key[0])


class _Chunk:
    """The tensors and the stage of one prompt length."""

    def __init__(self, model: OpenVLAOFT, engine: Engine, shape: torch.Size) -> None:
        network, layout = model.network, model.layout
        config, device, dtype = network.config, network.device, network.dtype
        size = config.image_sizes[0]
        self._model, self._engine = model, engine
        self.pixels = torch.zeros(layout.images, config.channels, size, size, dtype=dtype, device=device)
        self.token_ids = torch.zeros(shape, dtype=torch.int64, device=device)
        width = layout.proprio_width
        self.proprio = None if width is None else torch.zeros(1, width, dtype=dtype, device=device)
        self.out = self._compute()
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
