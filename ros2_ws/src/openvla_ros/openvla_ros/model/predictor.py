"""From a picture and words to an action in the dataset's units: transform, prompt, decode, un-normalise.

Knows nothing of robots, cameras or time; ``policy.openvla`` adds those.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, get_args

import torch

from openvla_ros.action_codec import ActionCodec, unnormalise
from openvla_ros.arrays import Float, Image, Int
from openvla_ros.errors import CheckpointError, InvalidValueError
from openvla_ros.model.adapters import Adapter, read_adapter
from openvla_ros.model.checkpoint import STATISTICS, resolve
from openvla_ros.model.config import OpenVLAConfig, read_config
from openvla_ros.model.decoding import Decoder, GreedyDecoder
from openvla_ros.model.drafting import DraftingDecoder
from openvla_ros.model.openvla import OpenVLA
from openvla_ros.model.quantization import Quantization, weight_bytes
from openvla_ros.model.vision_language import VisionLanguageModel, load_vision_language
from openvla_ros.prompt import PromptStyle
from openvla_ros.statistics import (
    DatasetStatistics,
    FieldStatistics,
    parse_norm_stats,
    read_statistics,
    select_statistics,
)

DecoderName = Literal["fast", "plain"]
DECODERS: tuple[DecoderName, ...] = get_args(DecoderName)


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

    @property
    def proprio_width(self) -> int | None:
        """How many numbers of proprioception one prediction takes; ``None`` for none."""
        ...

    @property
    def weight_bytes(self) -> int:
        """How much memory the weights take."""
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
    adapter: str | None = None  # the loaded adapter to predict with; None is the base model
    image_count: int = 1
    proprio_width: None = None

    @property
    def weight_bytes(self) -> int:
        """How much memory the weights take, without adapters."""
        return weight_bytes(self.model.network)

    def predict(self, images: Sequence[Image], instruction: str, proprio: Float | None = None) -> Prediction:
        """Return one action; raises ``ModelOutputError`` if the model did not produce one."""
        if len(images) != 1 or proprio is not None:
            raise InvalidValueError(f"this model takes one image and no proprioception; got {len(images)}")
        began = time.perf_counter()
        self.model.adapters.activate(self.adapter)
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


def read_checkpoint_statistics(
    folder: Path, config: OpenVLAConfig, adapter: str | Path | None = None
) -> dict[str, DatasetStatistics]:
    """Return the statistics of each dataset: the adapter's, else the checkpoint's, else its config's.

    Raises ``StatisticsError`` or, where there are none, ``CheckpointError``.
    """
    for place in (folder,) if adapter is None else (Path(adapter), folder):
        if (place / STATISTICS).is_file():
            return read_statistics(place / STATISTICS)
    if not config.norm_stats:
        raise CheckpointError(f"{folder} has neither {STATISTICS} nor norm_stats in its config.json")
    return parse_norm_stats(config.norm_stats, str(folder / "config.json"))


def load_predictor(
    source: str | Path,
    *,
    adapter: str | Path | None = None,
    unnorm_key: str | None = None,
    center_crop: bool = False,
    prompt_style: PromptStyle | None = None,
    only_action_tokens: bool = False,
    statistics: Mapping[str, DatasetStatistics] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    quantization: Quantization | None = None,
    decoder: DecoderName = "fast",
    offline: bool = False,
    progress: bool | None = None,
) -> OpenVLAPredictor:
    """Return a checkpoint ready to predict with the statistics of ``unnorm_key``.

    ``adapter`` is the folder of a LoRA adapter, which may bring its own statistics; ``statistics``
    replace both. ``only_action_tokens`` keeps the model from ending early, see ``decode_greedily``.
    Raises ``CheckpointError`` and ``StatisticsError``.
    """
    folder = resolve(source, offline=offline)
    if statistics is None:
        statistics = read_checkpoint_statistics(folder, read_config(folder), adapter)
    _, dataset = select_statistics(statistics, unnorm_key)
    update = None if adapter is None else read_adapter(adapter)
    model = load_vision_language(
        folder,
        prompt_style=prompt_style,
        dtype=dtype,
        device=device,
        quantization=quantization,
        offline=offline,
        progress=progress,
    )
    chosen = make_decoder(decoder, model.network, only_action_tokens)
    predictor = OpenVLAPredictor(model, chosen, dataset.action, center_crop)
    return predictor if update is None else with_adapter(predictor, "adapter", update, dataset.action)


def select_decoder(name: str) -> DecoderName:
    """Return ``name`` if it is a decoder's; raises ``InvalidValueError`` listing them."""
    for known in DECODERS:
        if name == known:
            return known
    raise InvalidValueError(f"decoder {name!r} is not one of {', '.join(DECODERS)}")


def make_decoder(name: DecoderName, network: OpenVLA, only_action_tokens: bool = False) -> Decoder:
    """Return the decoder called ``name``: both give the same tokens."""
    match name:
        case "plain":
            return GreedyDecoder(network, only_action_tokens)
        case "fast":
            return DraftingDecoder(network, only_action_tokens)


def with_adapter(
    predictor: OpenVLAPredictor, name: str, adapter: Adapter, statistics: FieldStatistics
) -> OpenVLAPredictor:
    """Return a second predictor on the same weights, with ``adapter`` loaded as ``name``."""
    predictor.model.adapters.add(name, adapter)
    return replace(predictor, adapter=name, statistics=statistics)
