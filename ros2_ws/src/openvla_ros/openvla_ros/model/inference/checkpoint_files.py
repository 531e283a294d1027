"""The small files of a checkpoint, read once and checked for consistency before any weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from openvla_ros.errors import CheckpointError
from openvla_ros.model.checkpoints.safetensors import resolve
from openvla_ros.model.network.config import OpenVLAConfig
from openvla_ros.model.network.config_file import read_config, read_json
from openvla_ros.model.network.tokenizer import PromptTokenizer
from openvla_ros.preprocessing.image_transform import ImageTransform
from openvla_ros.preprocessing.prompt import PromptStyle


@dataclass(frozen=True, eq=False)
class CheckpointFiles:
    """A checkpoint's folder without its weights: configuration, tokenizer, image transform."""

    folder: Path
    config: OpenVLAConfig
    tokenizer: PromptTokenizer
    transform: ImageTransform
    prompt_style: PromptStyle  # that the language model was trained with

    @classmethod
    def read(cls, source: str | Path, *, offline: bool = False) -> CheckpointFiles:
        """Return the files of ``source``: a folder, a hub id or the name of a shipped checkpoint.

        Raises ``CheckpointError`` if one is missing or invalid, or if they contradict each other.
        """
        folder = resolve(source, offline=offline)
        config = read_config(folder)
        tokenizer, transform = PromptTokenizer.from_folder(folder), read_transform(folder)
        check_sizes(config, tokenizer, transform, str(folder))
        return cls(folder, config, tokenizer, transform, default_prompt_style(config))

    @property
    def revision(self) -> str | None:
        """The hub's revision of the checkpoint, or None for a folder that did not come from its cache."""
        return self.folder.name if self.folder.parent.name == "snapshots" else None


def read_transform(folder: Path) -> ImageTransform:
    """Return the image transform of the checkpoint in ``folder``."""
    path = folder / "preprocessor_config.json"
    return ImageTransform.from_config(read_json(path), str(path))


def default_prompt_style(config: OpenVLAConfig) -> PromptStyle:
    """Return the prompt style that the language model was trained with: Vicuna's for the first release."""
    return "vicuna_v01" if config.llm_backbone_id == "vicuna-v15-7b" else "openvla"


def check_sizes(
    config: OpenVLAConfig, tokenizer: PromptTokenizer, transform: ImageTransform, source: str
) -> None:
    """Raise ``CheckpointError`` if the tokenizer or the image transform does not fit the network."""
    size = config.image_sizes[0]
    if transform.size != (size, size) or len(transform.towers) != len(config.towers()):
        raise CheckpointError(
            f"{source}: preprocessor_config.json outputs {len(transform.towers)} x {transform.size} pixels; "
            f"the network takes {len(config.towers())} x {(size, size)}"
        )
    if tokenizer.size > config.text_config.vocab_size:
        raise CheckpointError(
            f"{source}: tokenizer.json has {tokenizer.size} ids; "
            f"text_config.vocab_size is {config.text_config.vocab_size}"
        )
