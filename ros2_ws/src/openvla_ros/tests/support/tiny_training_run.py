"""Small bases, small data and quick runs for the tests of fine-tuning."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.generated_episodes import make_episode

from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.data.hdf.robomimic_writer import Hdf5Writer
from openvla_ros.preprocessing.dataset_statistics import DatasetStatistics, mask_of
from openvla_ros.preprocessing.statistics_accumulator import StatisticsAccumulator
from openvla_ros.pretraining.small_model import SmallSize, make_small_model, save_checkpoint, train_tokenizer
from openvla_ros.profile import load_profile
from openvla_ros.training.data.selection import Selection
from openvla_ros.training.finetune import finetune
from openvla_ros.training.recipe import Recipe
from openvla_ros.training.request import FinetuneRequest, WeightedData

PROFILE = load_profile("widowx")
SIZE = SmallSize(
    image_size=28, vision_width=24, vision_depth=3, text_width=32, text_depth=2, text_inner=48, pieces=400
)
TEXTS = ["In: What action should the robot take to put the block on the plate?\nOut: 0123456789"]


def make_base(folder: Path, seed: int = 0) -> Path:
    """Write a tiny checkpoint with statistics of its own."""
    model = make_small_model(SIZE, seed)
    space = PROFILE.space()
    accumulator = StatisticsAccumulator(space.width)
    accumulator.add(np.random.default_rng(0).uniform(-0.05, 0.05, (100, space.width)))
    statistics = DatasetStatistics(accumulator.statistics(mask_of(space)), None, 100, 2).to_json()
    save_checkpoint(
        folder, model, train_tokenizer(TEXTS, SIZE.pieces), SIZE, {"base": statistics}, torch.float32
    )
    return folder


def write_data(path: Path, count: int = 6, **changes: Any) -> Path:
    """Write ``count`` short episodes as HDF5."""
    with Hdf5Writer(path) as writer:
        for seed in range(count):
            changed = {"outcome": "success", "intervention": np.zeros(6, bool), **changes}
            robot = {"provenance": {"robot": "widowx"}}
            writer.add(make_episode(seed, **{**robot, **changed}))
    return path


QUICK = Recipe(rank=4, batch_size=4, steps=12, validate_every=6, save_every=2)
WHOLE = replace(QUICK, rank=Recipe.rank)  # for methods without an adapter


def make_request(
    base: Path, data: Path, output: Path, recipe: Recipe = QUICK, **changes: Any
) -> FinetuneRequest:
    request = FinetuneRequest(
        base=str(base),
        data=(WeightedData(SourceRequest(data)),),
        output=output,
        recipe=recipe,
        selection=Selection(validation_share=0.2),
    )
    return replace(request, **changes)


@dataclass
class Notes:
    """A listener that remembers."""

    lines: list[str] = field(default_factory=list)
    steps: list[Any] = field(default_factory=list)
    validations: list[Any] = field(default_factory=list)

    def reading(self, done: int, total: int) -> None:
        pass

    def stepped(self, step: int, total: int, result: Any) -> None:
        self.steps.append(result)

    def validated(self, step: int, scores: Any) -> None:
        self.validations.append(scores)

    def note(self, text: str) -> None:
        self.lines.append(text)


def start_run(request: FinetuneRequest) -> multiprocessing.Process:
    """Start a run in a process of its own, which can be killed."""
    process = multiprocessing.get_context("fork").Process(target=finetune, args=(request, Notes()))
    process.start()
    return process
