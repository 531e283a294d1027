"""A network with its tokenizer and image transform: images and words in, tokens out.

The common part of acting and answering questions. Knows nothing of action statistics or robots.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openvla_ros.errors import CheckpointError, InvalidValueError
from openvla_ros.model.checkpoints.lora_adapters import AdapterSet
from openvla_ros.model.checkpoints.safetensors import DTYPES, load_model
from openvla_ros.model.decoding.greedy import generate_text, prefill
from openvla_ros.model.inference.checkpoint_files import CheckpointFiles
from openvla_ros.model.inference.options import DEFAULTS, LoadOptions
from openvla_ros.model.network.bitsandbytes_layers import integers_of
from openvla_ros.model.network.openvla import OpenVLA
from openvla_ros.model.network.pixels import PixelTable
from openvla_ros.model.network.tokenizer import PromptTokenizer
from openvla_ros.preprocessing.image_transform import ImageTransform
from openvla_ros.preprocessing.prompt import PromptStyle, build_prompt, build_question_prompt
from openvla_ros.values.arrays import Image


@dataclass(frozen=True, eq=False)
class VisionLanguageModel:
    """One loaded checkpoint."""

    network: OpenVLA
    tokenizer: PromptTokenizer
    transform: ImageTransform
    prompt_style: PromptStyle
    adapters: AdapterSet
    table: PixelTable

    def pixels(self, image: Image, *, center_crop: bool = False) -> Tensor:
        """Return the network's input (1, 3 a tower, H, W) for an RGB image, on its device, in its type."""
        return self.table(image, center_crop=center_crop)

    def prompt_ids(self, instruction: str) -> Tensor:
        """Return the token ids (1, L) of the prompt that asks for an action."""
        return torch.tensor([self.tokenizer.encode_prompt(build_prompt(instruction, self.prompt_style))])

    @torch.inference_mode()
    def answer(self, image: Image, question: str, max_tokens: int = 128) -> str:
        """Return the greedy answer to a free question about an image."""
        prompt = build_question_prompt(question, self.prompt_style)
        token_ids = torch.tensor([self.tokenizer.encode(prompt)])
        embeddings = self.network.embed(self.pixels(image), token_ids)
        return self.tokenizer.decode(generate_text(self.network, embeddings, max_tokens)).strip()

    @torch.inference_mode()
    def check_image_is_used(self) -> None:
        """Raise ``CheckpointError`` unless two different images give different logits.

        The original, run on other library versions, is known to ignore the image silently.
        """
        height, width = self.transform.size
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        first, second = (self._first_logits(image) for image in (np.zeros_like(noise), noise))
        if not bool(first.isfinite().all() and second.isfinite().all()):
            raise CheckpointError("the logits of a test image are not finite; try another dtype")
        if torch.equal(first, second):
            raise CheckpointError("the model ignores the image: two different images give the same logits")

    def _first_logits(self, image: Image) -> Tensor:
        embeddings = self.network.embed(self.pixels(image), self.prompt_ids("look around"))
        return prefill(self.network, embeddings)[0]


def load_vision_language(source: str | Path, options: LoadOptions = DEFAULTS) -> VisionLanguageModel:
    """Load a checkpoint and test that it uses its image; options for actions are ignored.

    All small files are read before the weights, so that an invalid one is reported at once. Raises
    ``CheckpointError``.
    """
    files = CheckpointFiles.read(source, offline=options.offline)
    network = load_model(
        files.folder,
        dtype=options.dtype,
        device=options.device,
        quantization=integers_of(options.quantization),
        offline=options.offline,
        progress=options.progress,
    )
    style = options.prompt_style or files.prompt_style
    table = PixelTable(files.transform, network.device, network.dtype)
    loaded = VisionLanguageModel(network, files.tokenizer, files.transform, style, AdapterSet(network), table)
    loaded.check_image_is_used()
    return loaded


def select_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is the first CUDA device, or the CPU without one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name):
        raise InvalidValueError(f"device {name!r} is not one of auto, cpu, cuda, cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidValueError(f"device {name!r} was requested, but torch finds no CUDA device")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise InvalidValueError(
            f"device {name!r} was requested; torch finds {count} CUDA devices, starting at cuda:0"
        )
    return device


def select_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """Return the type called ``name``; ``None`` is bf16 on CUDA and fp32 on a CPU, where bf16 is slow."""
    if name is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise InvalidValueError(f"dtype {name!r} is not one of {', '.join(DTYPES)}")
    return DTYPES[name]
