"""The checkpoint of the pre-training: written with its statistics and manifest, loaded as a policy."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer

from openvla_ros.manifest import Manifest, write_manifest
from openvla_ros.model.checkpoints.verification import write_checkpoint_sums
from openvla_ros.model.inference.checkpoint_files import read_transform
from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.model.inference.predictor import load_predictor
from openvla_ros.policy.openvla_policy import OpenVLAPolicy
from openvla_ros.preprocessing.dataset_statistics import (
    DatasetStatistics,
    mask_of,
    read_statistics,
    write_statistics,
)
from openvla_ros.preprocessing.statistics_accumulator import DatasetAccumulator
from openvla_ros.pretraining.frame_shards import FrameShards
from openvla_ros.pretraining.small_model import SmallSize, save_checkpoint
from openvla_ros.pretraining.trainer import Pretraining
from openvla_ros.profile import load_profile
from openvla_ros.resources import SMALL_BASE

ROBOT = "sim_widowx"
CAMERA = load_profile(ROBOT).cameras[0].name


def read_or_compute_statistics(folder: Path, frames: FrameShards) -> DatasetStatistics:
    """Return the statistics of the demonstrations: computed once, so that bins keep their meaning."""
    path = folder / "statistics.json"
    if path.exists():
        return read_statistics(path)[ROBOT]
    accumulator = DatasetAccumulator(7)
    for shard in frames.shards:
        accumulator.add_episode(shard.actions)
    statistics = accumulator.statistics(mask_of(load_profile(ROBOT).space()))
    write_statistics(path, {ROBOT: statistics})
    return statistics


def save(
    folder: Path, run: Pretraining, tokenizer: Tokenizer, size: SmallSize, statistics: DatasetStatistics
) -> None:
    """Write the checkpoint with its manifest, atomically."""
    unfinished = folder / "model.part"
    norm_stats = {ROBOT: statistics.to_json()}
    save_checkpoint(unfinished, run.model, tokenizer, size, norm_stats, dtype=torch.float32)
    write_manifest(unfinished, manifest(unfinished, statistics))
    write_checkpoint_sums(unfinished, (path.name for path in unfinished.iterdir()))
    shutil.rmtree(folder / "model", ignore_errors=True)
    unfinished.rename(folder / "model")


def manifest(folder: Path, statistics: DatasetStatistics) -> Manifest:
    """Return the manifest that the policy node checks the checkpoint against."""
    profile = load_profile(ROBOT)
    return Manifest(
        base_model=SMALL_BASE,
        base_revision=None,
        adapter_sha256=None,
        dataset_key=ROBOT,
        statistics=statistics,
        action_space=profile.space(),
        prompt_style="openvla",
        image_transform=read_transform(folder),
        center_crop=False,
        cameras=(profile.cameras[0].name,),
        robot=ROBOT,
    )


def load_policy(folder: Path) -> OpenVLAPolicy:
    """Return the checkpoint in ``folder`` as a policy."""
    profile = load_profile(ROBOT)
    predictor = load_predictor(folder, LoadOptions(dtype=torch.float32))
    return OpenVLAPolicy(
        predictor, profile.space(), cameras=[profile.cameras[0].name], description=str(folder)
    )
