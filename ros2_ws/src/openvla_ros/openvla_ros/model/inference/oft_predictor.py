"""From images, words and proprioception to a chunk of actions, with an OpenVLA-OFT checkpoint."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openvla_ros.errors import CheckpointError, InvalidValueError, ModelOutputError, StatisticsError
from openvla_ros.model.checkpoints.oft_parts import LAYOUT, load_parts, read_layout
from openvla_ros.model.checkpoints.safetensors import resolve
from openvla_ros.model.decoding.engine import make_engine
from openvla_ros.model.decoding.greedy import action_table, bin_centers, read_table
from openvla_ros.model.decoding.oft_engine import ChunkEngine
from openvla_ros.model.inference.options import DEFAULTS, LoadOptions
from openvla_ros.model.inference.predictor import Prediction, read_checkpoint_statistics
from openvla_ros.model.inference.vision_language import VisionLanguageModel, load_vision_language
from openvla_ros.model.kernels.cuda_graphs import EagerStages
from openvla_ros.model.network.bitsandbytes_layers import packing_of, weight_bytes
from openvla_ros.model.network.config_file import read_config
from openvla_ros.model.network.oft import OFTLayout, OpenVLAOFT
from openvla_ros.preprocessing.action_tokens import EPSILON, normalise, unnormalise
from openvla_ros.preprocessing.dataset_statistics import DatasetStatistics, FieldStatistics, select_statistics
from openvla_ros.preprocessing.tf_image_ops import MODEL_SIZE, resize_lanczos
from openvla_ros.preprocessing.tf_jpeg import jpeg_round_trip
from openvla_ros.values.arrays import Float, Image


@dataclass(frozen=True, eq=False)
class OFTPredictor:
    """Predicts a chunk of actions in one pass."""

    base: VisionLanguageModel
    model: OpenVLAOFT
    statistics: FieldStatistics
    proprio_statistics: FieldStatistics | None
    center_crop: bool = False
    engine: ChunkEngine | None = None  # None: the reference, by way of transformers' own modules
    dataset_key: str = ""  # whose statistics these are

    @property
    def image_count(self) -> int:
        """Number of images per prediction."""
        return self.model.layout.images

    @property
    def proprio_width(self) -> int | None:
        """Width of the proprioception vector; ``None`` if the model takes none."""
        return self.model.layout.proprio_width

    @property
    def weight_bytes(self) -> int:
        """Memory used by the weights, bytes, the extra parts included."""
        return weight_bytes(self.model)

    def predict(self, images: Sequence[Image], instruction: str, proprio: Float | None = None) -> Prediction:
        """Return a chunk of actions; ``proprio`` (P,) is in the dataset's units.

        Raises ``InvalidValueError`` for missing or extra inputs, and ``ModelOutputError`` if the output is
        not finite.
        """
        if not images:
            raise InvalidValueError(f"no images were given; this model takes {self.image_count}")
        began = time.perf_counter()
        pixels = torch.cat([self._pixels(image) for image in images])
        inputs = (pixels, self.base.prompt_ids(instruction), self._state(proprio))
        if not self.model.layout.regression:
            return self._discrete(*inputs, began=began)
        normalised = self._compute(*inputs).numpy()
        if not np.isfinite(normalised).all():
            raise ModelOutputError("the regression head's actions are not finite")
        return Prediction(self._unnormalised(normalised), time.perf_counter() - began)

    def prepare(self, instruction: str) -> bool:
        """Prepare (on CUDA: capture) the stage for prompts of this length; True if it had to be captured."""
        if self.engine is None:
            return False
        return self.engine.prepare(self.base.prompt_ids(instruction).shape[1])

    def forget(self) -> None:
        """Do nothing: no state is kept between chunks."""

    def _compute(self, pixels: Tensor, ids: Tensor, state: Tensor | None) -> Tensor:
        """Return normalised actions or, without a regression head, an action table, on the CPU."""
        if self.engine is not None:
            return self.engine.predict(pixels, ids, state)
        read = self.model.predict(pixels, ids, state)
        if self.model.layout.regression:
            return read.float().cpu()
        network = self.base.network
        return action_table(network, read, read.argmax(dim=-1), bin_centers(network)).cpu()

    def _discrete(self, pixels: Tensor, ids: Tensor, state: Tensor | None, *, began: float) -> Prediction:
        tokens = read_table(self._compute(pixels, ids, state))
        shape = (self.model.layout.chunk, self.model.layout.action_width)
        actions = self._unnormalised(tokens.normalised.reshape(shape))
        return Prediction(
            actions,
            time.perf_counter() - began,
            tokens.token_ids.reshape(shape),
            tokens.probability.reshape(shape),
            tokens.entropy.reshape(shape),
        )

    def _unnormalised(self, values: Float) -> Float:
        return unnormalise(values, self.statistics, self.model.layout.bounds, epsilon=EPSILON)

    def _pixels(self, image: Image) -> Tensor:
        """Return an image's pixels, resized as in the original evaluation."""
        if image.shape[:2] != MODEL_SIZE:
            image = resize_lanczos(jpeg_round_trip(image))
        return self.base.pixels(image, center_crop=self.center_crop)

    def _state(self, proprio: Float | None) -> Tensor | None:
        if proprio is None or self.proprio_statistics is None:
            return None if proprio is None else torch.from_numpy(np.asarray(proprio))[None]
        bounds = self.model.layout.bounds
        scaled = normalise(proprio, self.proprio_statistics, bounds, constant_to_zero=False)
        return torch.from_numpy(np.clip(scaled, -1.0, 1.0))[None]  # the original clips masked ones as well


def load_oft(source: str | Path, options: LoadOptions = DEFAULTS) -> OFTPredictor:
    """Return a converted OpenVLA-OFT checkpoint ready to predict.

    Raises ``CheckpointError`` and ``StatisticsError``.
    """
    folder = resolve(source, offline=options.offline)
    layout = read_layout(folder)
    statistics = options.statistics
    if statistics is None:
        statistics = read_checkpoint_statistics(folder, read_config(folder))
    key, dataset = select_statistics(statistics, options.unnorm_key)
    _check_widths(layout, dataset, f"{folder}: {key}")
    base = load_vision_language(folder, options)
    model = load_parts(base.network, layout, folder)
    proprio = None if layout.proprio_width is None else dataset.proprio
    engine = _make_engine(model, options)
    return OFTPredictor(base, model, dataset.action, proprio, options.center_crop, engine, key)


def _make_engine(model: OpenVLAOFT, options: LoadOptions) -> ChunkEngine | None:
    """Return the engine, or None for the plain decoder; there are no tokens to decode one by one."""
    how = options.quantization
    if how in ("int8wo", "int4wo"):
        raise CheckpointError(f"{how} only speeds up short passes, which an OFT model does not have; use fp8")
    if options.decoder == "plain":
        if how == "fp8":
            raise InvalidValueError("decoder 'plain' has no fp8 weights; the choices are fast and steady")
        return None
    stages = EagerStages() if how == "int8" else None
    return ChunkEngine(model, make_engine(model.network, packing_of(how), stages))


def _check_widths(layout: OFTLayout, dataset: DatasetStatistics, origin: str) -> None:
    if dataset.action.width != layout.action_width:
        raise StatisticsError(
            f"{origin}: the action statistics have {dataset.action.width} dimensions, "
            f"{LAYOUT} states {layout.action_width}"
        )
    if layout.proprio_width is None:
        return
    width = None if dataset.proprio is None else dataset.proprio.width
    if width != layout.proprio_width:
        raise StatisticsError(
            f"{origin}: the proprioception statistics have {width} dimensions, "
            f"{LAYOUT} states {layout.proprio_width}"
        )
