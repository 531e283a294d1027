"""Image and instruction to an action in the dataset's units: transform, prompt, decode, un-normalise.

Knows nothing of robots, cameras or time; ``policy.openvla_policy`` adds those.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from openvla_ros.errors import CheckpointError, InvalidValueError
from openvla_ros.manifest import manifest_path, read_manifest
from openvla_ros.model.checkpoints.lora_adapters import Adapter, read_adapter
from openvla_ros.model.checkpoints.safetensors import resolve
from openvla_ros.model.decoding.engine import make_engine
from openvla_ros.model.decoding.greedy import ActionTokens, Decoder, GreedyDecoder
from openvla_ros.model.decoding.speculative import DraftingDecoder
from openvla_ros.model.decoding.steady import SteadyDecoder
from openvla_ros.model.inference.options import DEFAULTS, LoadOptions
from openvla_ros.model.inference.vision_language import VisionLanguageModel, load_vision_language
from openvla_ros.model.kernels.cuda_graphs import EagerStages
from openvla_ros.model.network.bitsandbytes_layers import packing_of, weight_bytes
from openvla_ros.model.network.config import OpenVLAConfig
from openvla_ros.model.network.config_file import read_config
from openvla_ros.model.network.openvla import OpenVLA
from openvla_ros.preprocessing.action_tokens import unnormalise
from openvla_ros.preprocessing.dataset_statistics import (
    STATISTICS,
    DatasetStatistics,
    FieldStatistics,
    parse_norm_stats,
    read_statistics,
    select_statistics,
)
from openvla_ros.values.arrays import Float, Image, Int


@dataclass(frozen=True, eq=False)
class Prediction:
    """Consecutive actions from one moment; fields that a regression head does not have are ``None``."""

    actions: Float  # (T, D) in the dataset's units
    seconds: float  # from the image to the actions
    token_ids: Int | None = None  # (T, D)
    probability: Float | None = None  # (T, D) of the chosen bins, 0..1
    entropy: Float | None = None  # (T, D) nats


class ActionPredictor(Protocol):
    """One loaded checkpoint, bound to the statistics of one dataset."""

    @property
    def statistics(self) -> FieldStatistics:
        """The statistics that un-normalise the actions."""
        ...

    @property
    def dataset_key(self) -> str:
        """Name of the dataset that the statistics are of: the ``unnorm_key``."""
        ...

    @property
    def image_count(self) -> int:
        """Number of images per prediction."""
        ...

    @property
    def proprio_width(self) -> int | None:
        """Width of the proprioception vector; ``None`` if the model takes none."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Memory used by the weights, bytes."""
        ...

    def predict(self, images: Sequence[Image], instruction: str, proprio: Float | None = None) -> Prediction:
        """Return the actions for RGB ``images`` uint8 (H, W, 3) and, if the model takes it, state (P,)."""
        ...

    def prepare(self, instruction: str) -> bool:
        """Prepare (on CUDA: capture) the stages for prompts of this length.

        Returns True if something had to be captured. Without it, the first prediction takes longer.
        """
        ...

    def forget(self) -> None:
        """Forget the actions so far, which the next ones are guessed from."""
        ...


@dataclass(frozen=True, eq=False)
class OpenVLAPredictor:
    """One action at a time, token by token, from one image."""

    model: VisionLanguageModel
    decoder: Decoder
    statistics: FieldStatistics
    center_crop: bool = False  # for checkpoints that were trained with random crops
    adapter: str | None = None  # the loaded adapter to predict with; None is the base model
    image_count: int = 1
    proprio_width: None = None
    dataset_key: str = ""  # whose statistics these are

    @property
    def weight_bytes(self) -> int:
        """Memory used by the weights, bytes, without adapters."""
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
        return self.meaning_of(tokens, time.perf_counter() - began)

    def meaning_of(self, tokens: ActionTokens, seconds: float) -> Prediction:
        """Return the action that ``tokens`` (D,) stand for, which took ``seconds``."""
        return Prediction(
            unnormalise(tokens.normalised, self.statistics)[None],
            seconds,
            tokens.token_ids[None],
            tokens.probability[None],
            tokens.entropy[None],
        )

    def prepare(self, instruction: str) -> bool:
        """Prepare (on CUDA: capture) the stages for prompts of this length; True if any were captured."""
        self.model.adapters.activate(self.adapter)
        return self.decoder.prepare(self.model.prompt_ids(instruction).shape[1], self.statistics.width)

    def forget(self) -> None:
        """Forget the actions so far, which the next ones are guessed from."""
        self.decoder.forget()


def read_checkpoint_statistics(
    folder: Path, config: OpenVLAConfig, adapter: str | Path | None = None
) -> dict[str, DatasetStatistics]:
    """Return the statistics of each dataset: the adapter's, else the checkpoint's, else its config's.

    Those of an adapter or a checkpoint are in ``dataset_statistics.json``, else in its manifest. Raises
    ``ManifestError`` if both are there and differ, ``StatisticsError`` and, where there are none,
    ``CheckpointError``.
    """
    for place in (folder,) if adapter is None else (Path(adapter), folder):
        manifest = read_manifest(place) if manifest_path(place).is_file() else None
        if manifest is not None:
            manifest.check_statistics(place)
        if (place / STATISTICS).is_file():
            return read_statistics(place / STATISTICS)
        if manifest is not None:
            return {manifest.dataset_key: manifest.statistics}
    if not config.norm_stats:
        raise CheckpointError(f"{folder} has neither {STATISTICS} nor norm_stats in its config.json")
    return parse_norm_stats(config.norm_stats, str(folder / "config.json"))


def load_predictor(source: str | Path, options: LoadOptions = DEFAULTS) -> OpenVLAPredictor:
    """Return a checkpoint ready to predict. Raises ``CheckpointError`` and ``StatisticsError``."""
    folder = resolve(source, offline=options.offline)
    statistics = options.statistics
    if statistics is None:
        statistics = read_checkpoint_statistics(folder, read_config(folder), options.adapter)
    key, dataset = select_statistics(statistics, options.unnorm_key)
    update = None if options.adapter is None else read_adapter(options.adapter, folder)
    model = load_vision_language(folder, options)
    predictor = OpenVLAPredictor(
        model, make_decoder(model.network, options), dataset.action, options.center_crop, dataset_key=key
    )
    return predictor if update is None else with_adapter(predictor, "adapter", update, dataset.action)


def make_decoder(network: OpenVLA, options: LoadOptions = DEFAULTS) -> Decoder:
    """Return the decoder for ``options``; all decoders output the same tokens for the same weights.

    Raises ``CheckpointError`` if the device does not support the requested weights, and
    ``InvalidValueError`` if the plain decoder is combined with packed weights.
    """
    how, only = options.quantization, options.only_action_tokens
    if options.decoder == "plain":
        if packing_of(how):
            raise InvalidValueError(f"decoder 'plain' has no {how} weights; the choices are fast and steady")
        return GreedyDecoder(network, only)
    # LLM.int8 decides from its inputs what to compute, which cannot be captured in a graph.
    stages = EagerStages() if how == "int8" else None
    engine = make_engine(network, packing_of(how), stages)
    match options.decoder:
        case "fast":
            return DraftingDecoder(network, only, engine)
        case "steady":
            return SteadyDecoder(network, only, engine)


def with_adapter(
    predictor: OpenVLAPredictor, name: str, adapter: Adapter, statistics: FieldStatistics
) -> OpenVLAPredictor:
    """Return a second predictor on the same weights, with ``adapter`` loaded as ``name``."""
    predictor.model.adapters.add(name, adapter)
    return replace(predictor, adapter=name, statistics=statistics)
