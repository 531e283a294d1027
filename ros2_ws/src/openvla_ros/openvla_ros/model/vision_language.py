"""A network with its tokenizer and its image transform: pictures and words in, tokens out.

What acting and answering have in common. Knows nothing of action statistics or robots.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openvla_ros.arrays import Image
from openvla_ros.errors import CheckpointError, InvalidValueError
from openvla_ros.images import ImageTransform
from openvla_ros.model.adapters import AdapterSet
from openvla_ros.model.checkpoint import DTYPES, load_model, resolve
from openvla_ros.model.config import OpenVLAConfig
from openvla_ros.model.config_file import read_config, read_json
from openvla_ros.model.decoding import generate_text, prefill
from openvla_ros.model.openvla import OpenVLA
from openvla_ros.model.options import DEFAULTS, LoadOptions
from openvla_ros.model.pixels import PixelTable
from openvla_ros.model.quantization import integers_of
from openvla_ros.model.tokenizer import PromptTokenizer
from openvla_ros.prompt import PromptStyle, build_prompt, build_question_prompt


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
        """Return the network's view (1, 3 a tower, H, W) of an RGB picture, on its device, in its type."""
        return self.table(image, center_crop=center_crop)

    def prompt_ids(self, instruction: str) -> Tensor:
        """Return the token ids (1, L) of the prompt that asks for an action."""
        return torch.tensor([self.tokenizer.encode_prompt(build_prompt(instruction, self.prompt_style))])

    @torch.inference_mode()
    def answer(self, image: Image, question: str, max_tokens: int = 128) -> str:
        """Return the greedy answer to a free question about a picture."""
        prompt = build_question_prompt(question, self.prompt_style)
        token_ids = torch.tensor([self.tokenizer.encode(prompt)])
        embeddings = self.network.embed(self.pixels(image), token_ids)
        return self.tokenizer.decode(generate_text(self.network, embeddings, max_tokens)).strip()

    @torch.inference_mode()
    def check_image_is_used(self) -> None:
        """Raise ``CheckpointError`` unless two different pictures give different logits.

        The original, run on other library versions, is known to skip the image without a word.
        """
        height, width = self.transform.size
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        first, second = (self._first_logits(picture) for picture in (np.zeros_like(noise), noise))
        if not bool(first.isfinite().all() and second.isfinite().all()):
            raise CheckpointError("the logits of a test picture are not finite; try another dtype")
        if torch.equal(first, second):
            raise CheckpointError("the image is not used: two different pictures give the same logits")

    def _first_logits(self, image: Image) -> Tensor:
        embeddings = self.network.embed(self.pixels(image), self.prompt_ids("look around"))
        return prefill(self.network, embeddings)[0]


def load_vision_language(source: str | Path, options: LoadOptions = DEFAULTS) -> VisionLanguageModel:
    """Return a checkpoint, after a test that it looks at its image; options of acting are not used.

    All small files are read before the weights, so that a wrong one is told at once. Raises
    ``CheckpointError``.
    """
    folder = resolve(source, offline=options.offline)
    config = read_config(folder)
    tokenizer, transform = PromptTokenizer.from_folder(folder), read_transform(folder)
    check_sizes(config, tokenizer, transform, str(folder))
    network = load_model(
        folder,
        dtype=options.dtype,
        device=options.device,
        quantization=integers_of(options.quantization),
        offline=options.offline,
        progress=options.progress,
    )
    style = options.prompt_style or default_prompt_style(config)
    table = PixelTable(transform, network.device, network.dtype)
    loaded = VisionLanguageModel(network, tokenizer, transform, style, AdapterSet(network), table)
    loaded.check_image_is_used()
    return loaded


def read_transform(folder: Path) -> ImageTransform:
    """Return the image transform of the checkpoint in ``folder``."""
    path = folder / "preprocessor_config.json"
    return ImageTransform.from_config(read_json(path), str(path))


def default_prompt_style(config: OpenVLAConfig) -> PromptStyle:
    """Return the prompt that the language model was trained with: Vicuna's for the first release."""
    return "vicuna_v01" if config.llm_backbone_id == "vicuna-v15-7b" else "openvla"


def check_sizes(
    config: OpenVLAConfig, tokenizer: PromptTokenizer, transform: ImageTransform, source: str
) -> None:
    """Raise ``CheckpointError`` if the tokenizer or the image transform does not fit the network."""
    size = config.image_sizes[0]
    if transform.size != (size, size) or len(transform.towers) != len(config.towers()):
        raise CheckpointError(
            f"{source}: preprocessor_config.json makes {len(transform.towers)} x {transform.size} pixels; "
            f"the network takes {len(config.towers())} x {(size, size)}"
        )
    if tokenizer.size > config.text_config.vocab_size:
        raise CheckpointError(
            f"{source}: tokenizer.json has {tokenizer.size} ids; "
            f"text_config.vocab_size is {config.text_config.vocab_size}"
        )


def select_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is the first CUDA device, or the CPU without one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidValueError(f"device {name!r} is none of auto, cpu, cuda, cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidValueError(f"device {name!r} was asked for, but torch finds no CUDA device here")
    return device


def select_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """Return the type called ``name``; ``None`` is bf16 on CUDA and fp32 on a CPU, where bf16 is slow."""
    if name is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise InvalidValueError(f"dtype {name!r} is none of {', '.join(DTYPES)}")
    return DTYPES[name]
