"""The engine of the fast decoders: vision and language stages of one network, allocated once.

The vision stage is the same for every prompt; each decoder creates language stages for each prompt length.
On a CUDA device they are captured graphs, elsewhere plain calls of the same functions.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from openvla_ros.model.decoding.greedy import bin_centers
from openvla_ros.model.kernels.cuda_graphs import Recent, Stages, Work, stages_for
from openvla_ros.model.kernels.linear_layers import fused_maps
from openvla_ros.model.kernels.packed_weights import packing
from openvla_ros.model.kernels.static_llama import StaticLlama
from openvla_ros.model.kernels.torch_kernels import LlamaShape, TorchKernels
from openvla_ros.model.network.bitsandbytes_layers import Packing
from openvla_ros.model.network.openvla import OpenVLA
from openvla_ros.model.network.pixels import upload

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromptKey:
    """The key of a language stage; another adapter means other tensors in it."""

    length: int  # embeddings of the prompt, the image's among them
    count: int  # tokens of the action
    adapter: int  # serial number of the active adapter
    capacity: int  # of the cache: once it has moved, earlier stages are useless


def make_engine(model: OpenVLA, how: Packing | None = None, stages: Stages | None = None) -> Engine:
    """Return the engine of ``model``, with the kernels that its device supports and its weights packed.

    Raises ``CheckpointError`` if the device does not support such weights.
    """
    pack = None if how is None else packing(how, model.device)
    return Engine(model, stages, StaticLlama(model, kernels_for(model), pack))


def kernels_for(model: OpenVLA) -> TorchKernels:
    """Return the fused kernels if they run and match the reference, otherwise torch's operations.

    If a CUDA device gets the latter, the reason is logged.
    """
    config = model.language_model.config
    plain = TorchKernels(LlamaShape.of(config))
    maps = fused_maps(model) if model.device.type == "cuda" else None
    if maps is None:
        return plain
    try:
        from openvla_ros.model.kernels import triton_kernels
    except ImportError as error:
        _LOG.warning("no fused kernels, torch's operations are used: %s", error)
        return plain
    found = triton_kernels.problems(plain.shape, config.vocab_size)
    if found:
        _LOG.warning("no fused kernels, torch's operations are used: %s", "; ".join(found))
        return plain
    kernels = triton_kernels.TritonKernels(plain.shape)
    try:
        with torch.inference_mode(), torch.cuda.device(model.device):
            triton_kernels.check(kernels, maps.layers[0], _positions(model, triton_kernels.CHECKED))
    except triton_kernels.FAILURES as error:
        _LOG.warning("no fused kernels, torch's operations are used: %s", error)
        return plain
    return kernels


def _positions(model: OpenVLA, count: int) -> tuple[Tensor, Tensor]:
    """Return the cosines and the sines (count, head width) of the first positions."""
    rotary, places = model.language_model.model.rotary_emb, torch.arange(count, device=model.device)
    like = torch.zeros((), dtype=model.dtype, device=model.device)
    cos, sin = rotary(like, places[None])
    return cos[0], sin[0]


class Engine:
    """The stages of one network, for one decoder at a time."""

    def __init__(
        self, model: OpenVLA, stages: Stages | None = None, llama: StaticLlama | None = None
    ) -> None:
        self.model = model
        self.stages = stages or stages_for(model.device)
        self.llama = llama or StaticLlama(model)
        self.centers = bin_centers(model)
        self._vision: Recent[tuple[int, torch.Size], _Vision] = Recent(self._lay_out)

    @property
    def state(self) -> str:
        """How the stages run, and with which kernels."""
        return f"{self.stages.state}, {self.llama.kernels.name} kernels"

    def prompt_key(self, length: int, count: int) -> PromptKey:
        """Allocate a prompt of ``length`` and ``count`` tokens; return the key of its stages."""
        self.llama.reserve(length + count - 1)
        return PromptKey(length, count, self.model.adapter_serial, self.llama.capacity)

    def embed(self, pixels: Tensor, token_ids: Tensor) -> Tensor:
        """Return the joined embeddings (1, L + patches, H) of one image and its prompt (1, L)."""
        text = self.model.text_embeddings(upload(token_ids, self.model.device))
        return self.model.join(self.see(pixels), text)

    def see(self, pixels: Tensor) -> Tensor:
        """Return embeddings (B, patches, H) of (B, 3 a tower, H, W) pixels; the next call overwrites them."""
        vision = self._vision[self.model.adapter_serial, pixels.shape]
        vision.pixels.copy_(pixels)
        vision.run()
        return vision.image

    def _lay_out(self, key: tuple[int, torch.Size]) -> _Vision:
        return _Vision(self.model, self.stages, key[1])


class _Vision:
    """Both towers, in parallel where the device can, and the projector."""

    def __init__(self, model: OpenVLA, stages: Stages, shape: torch.Size) -> None:
        self._model, self._stages = model, stages
        self.pixels = torch.zeros(shape, dtype=model.dtype, device=model.device)
        tokens, width = model.config.patches, model.config.text_config.hidden_size
        self.image = torch.zeros(shape[0], tokens, width, dtype=model.dtype, device=model.device)
        self.run: Work = stages.prepare(self._see)

    def _see(self) -> None:
        features = self._model.vision_backbone(self.pixels, self._stages.beside)
        self.image.copy_(self._model.projector(features))
