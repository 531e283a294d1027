"""From a picture and words to an action in the dataset's units: transform, prompt, decode, un-normalise.

Knows nothing of robots, cameras or time; ``policy.openvla`` adds those.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from openvla_ros.action_codec import ActionCodec, unnormalise
from openvla_ros.arrays import Float, Image, Int
from openvla_ros.errors import CheckpointError, InvalidValueError
from openvla_ros.model.checkpoint import STATISTICS, resolve
from openvla_ros.model.config import OpenVLAConfig, read_config
from openvla_ros.model.decoding import Decoder, GreedyDecoder
from openvla_ros.model.vision_language import VisionLanguageModel, load_vision_language
from openvla_ros.prompt import PromptStyle
from openvla_ros.statistics import (
    DatasetStatistics,
    FieldStatistics,
    parse_norm_stats,
    read_statistics,
    select_statistics,
)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Consecutive actions from one moment; what a regression head cannot state is ``None``."""

    actions: Float  # (T, D) in the dataset's units
    seconds: float  # from the picture to the actions
    token_ids: Int | None = None  # (T, D)
    probability: Float | None = None  # (T, D) of the chosen bins, 0..1
    entropy: Float | None = None  # (T, D) nats


class ActionPredictor(Protocol):
    """One loaded checkpoint, bound to the statistics of one dataset."""

    @property
    def statistics(self) -> FieldStatistics:
        """What the actions are un-normalised with."""
        ...

    @property
    def image_count(self) -> int:
        """How many pictures one prediction takes."""
        ...

    def predict(self, images: Sequence[Image], instruction: str, proprio: Float | None = None) -> Prediction:
        """Return the actions for RGB ``images`` and, where the model has it, proprioception (P,)."""
        ...


@dataclass(frozen=True, eq=False)
class OpenVLAPredictor:
    """One action at a time, token by token, from one picture."""

    model: VisionLanguageModel
    decoder: Decoder
    statistics: FieldStatistics
    center_crop: bool = False  # for checkpoints that were trained with random crops
    image_count: int = 1

    def predict(self, images: Sequence[Image], instruction: str, proprio: Float | None = None) -> Prediction:
        """Return one action; raises ``ModelOutputError`` if the model did not produce one."""
        if len(images) != 1 or proprio is not None:
            raise InvalidValueError(f"this model takes one image and no proprioception; got {len(images)}")
        began = time.perf_counter()
        tokens = self.decoder.decode(
            self.model.pixels(images[0], center_crop=self.center_crop),
            self.model.prompt_ids(instruction),
            self.statistics.width,
        )
        config = self.model.network.config
        codec = ActionCodec(config.action_vocab_size, config.n_action_bins)
        actions = unnormalise(codec.decode(tokens.token_ids), self.statistics)
        return Prediction(
            actions[None],
            time.perf_counter() - began,
            tokens.token_ids[None],
            tokens.probability[None],
            tokens.entropy[None],
        )


def read_checkpoint_statistics(folder: Path, config: OpenVLAConfig) -> dict[str, DatasetStatistics]:
    """Return the statistics of each dataset; ``dataset_statistics.json`` replaces the config's.

    Raises ``StatisticsError`` or, where there are none, ``CheckpointError``.
    """
    if (folder / STATISTICS).is_file():
        return read_statistics(folder / STATISTICS)
    if not config.norm_stats:
        raise CheckpointError(f"{folder} has neither {STATISTICS} nor norm_stats in its config.json")
    return parse_norm_stats(config.norm_stats, str(folder / "config.json"))


def load_predictor(
    source: str | Path,
    *,
    unnorm_key: str | None = None,
    center_crop: bool = False,
    prompt_style: PromptStyle | None = None,
    statistics: Mapping[str, DatasetStatistics] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    offline: bool = False,
    progress: bool | None = None,
) -> OpenVLAPredictor:
    """Return a checkpoint ready to predict with the statistics of ``unnorm_key``.

    ``statistics`` replace the checkpoint's own. Raises ``CheckpointError`` and ``StatisticsError``.
    """
    folder = resolve(source, offline=offline)
    found = statistics if statistics is not None else read_checkpoint_statistics(folder, read_config(folder))
    _, dataset = select_statistics(found, unnorm_key)
    model = load_vision_language(
        folder, prompt_style=prompt_style, dtype=dtype, device=device, offline=offline, progress=progress
    )
    return OpenVLAPredictor(model, GreedyDecoder(model.network), dataset.action, center_crop)
