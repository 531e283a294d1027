"""From pictures, words and proprioception to a chunk of actions, with an OpenVLA-OFT checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openvla_ros.action_codec import EPSILON, ActionCodec, normalise, unnormalise
from openvla_ros.arrays import Float, Image
from openvla_ros.errors import InvalidValueError, ModelOutputError, StatisticsError
from openvla_ros.image_resampling import MODEL_SIZE, resize_lanczos
from openvla_ros.jpeg_round_trip import jpeg_round_trip
from openvla_ros.model.checkpoint import resolve
from openvla_ros.model.config import read_config
from openvla_ros.model.decoding import action_tokens
from openvla_ros.model.oft import OFTLayout, OpenVLAOFT
from openvla_ros.model.oft_checkpoint import LAYOUT, load_parts, read_layout
from openvla_ros.model.predictor import Prediction, read_checkpoint_statistics
from openvla_ros.model.quantization import Quantization, weight_bytes
from openvla_ros.model.vision_language import VisionLanguageModel, load_vision_language
from openvla_ros.prompt import PromptStyle
from openvla_ros.statistics import DatasetStatistics, FieldStatistics, select_statistics


@dataclass(frozen=True, eq=False)
class OFTPredictor:
    """A chunk of actions in one pass."""

    base: VisionLanguageModel
    model: OpenVLAOFT
    statistics: FieldStatistics
    proprio_statistics: FieldStatistics | None
    center_crop: bool = False

    @property
    def image_count(self) -> int:
        """How many pictures one prediction takes."""
        return self.model.layout.images

    @property
    def proprio_width(self) -> int | None:
        """How many numbers of proprioception one prediction takes; ``None`` for none."""
        return self.model.layout.proprio_width

    @property
    def weight_bytes(self) -> int:
        """How much memory the weights take, those of the extra parts included."""
        return weight_bytes(self.model)

    def predict(self, images: Sequence[Image], instruction: str, proprio: Float | None = None) -> Prediction:
        """Return a chunk of actions; ``proprio`` (P,) is in the dataset's units.

        Raises ``InvalidValueError`` where an input is missing or too many, and ``ModelOutputError``
        if what came out is not finite.
        """
        if not images:
            raise InvalidValueError(f"no images were given; this model takes {self.image_count}")
        began = time.perf_counter()
        pixels = torch.cat([self._pixels(image) for image in images])
        inputs = (pixels, self.base.prompt_ids(instruction), self._state(proprio))
        if not self.model.layout.regression:
            return self._discrete(*inputs, began=began)
        normalised = self.model.predict(*inputs).float().cpu().numpy()
        if not np.isfinite(normalised).all():
            raise ModelOutputError("the regression head's actions are not finite")
        return Prediction(self._unnormalised(normalised), time.perf_counter() - began)

    def _discrete(self, pixels: Tensor, ids: Tensor, state: Tensor | None, *, began: float) -> Prediction:
        logits = self.model.slot_logits(pixels, ids, state)
        config = self.base.network.config
        tokens = action_tokens(self.base.network, logits, logits.argmax(dim=-1))
        shape = (self.model.layout.chunk, self.model.layout.action_width)
        values = ActionCodec(config.action_vocab_size, config.n_action_bins).decode(tokens.token_ids)
        actions = self._unnormalised(values.reshape(shape))
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
        """Return a picture's pixels after what the original evaluation does to other sizes."""
        if image.shape[:2] != MODEL_SIZE:
            image = resize_lanczos(jpeg_round_trip(image))
        return self.base.pixels(image, center_crop=self.center_crop)

    def _state(self, proprio: Float | None) -> Tensor | None:
        if proprio is None or self.proprio_statistics is None:
            return None if proprio is None else torch.from_numpy(np.asarray(proprio))[None]
        bounds = self.model.layout.bounds
        scaled = normalise(proprio, self.proprio_statistics, bounds, constant_to_zero=False)
        return torch.from_numpy(np.clip(scaled, -1.0, 1.0))[None]  # the original clips masked ones as well


def load_oft(
    source: str | Path,
    *,
    unnorm_key: str | None = None,
    center_crop: bool = False,
    prompt_style: PromptStyle | None = None,
    statistics: Mapping[str, DatasetStatistics] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    quantization: Quantization | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> OFTPredictor:
    """Return a converted OpenVLA-OFT checkpoint ready to predict.

    Raises ``CheckpointError`` and ``StatisticsError``.
    """
    folder = resolve(source, offline=offline)
    layout = read_layout(folder)
    if statistics is None:
        statistics = read_checkpoint_statistics(folder, read_config(folder))
    key, dataset = select_statistics(statistics, unnorm_key)
    _check_widths(layout, dataset, f"{folder}: {key}")
    base = load_vision_language(
        folder,
        prompt_style=prompt_style,
        dtype=dtype,
        device=device,
        quantization=quantization,
        offline=offline,
        progress=progress,
    )
    model = load_parts(base.network, layout, folder)
    proprio = None if layout.proprio_width is None else dataset.proprio
    return OFTPredictor(base, model, dataset.action, proprio, center_crop)


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
