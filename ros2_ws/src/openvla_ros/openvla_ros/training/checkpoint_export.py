"""Exports a run for deployment: an adapter or a checkpoint, statistics and the manifest.

The manifest and the checksums of all files are written last, so a folder whose writer was killed is
refused instead of being used incomplete.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from openvla_ros.errors import TrainingError
from openvla_ros.integrity.disk import writing
from openvla_ros.manifest import MANIFEST_NAME, Manifest, manifest_path, write_manifest
from openvla_ros.model.checkpoints.adapter_config import ADAPTER_CONFIG
from openvla_ros.model.checkpoints.lora_adapters import ADAPTER_WEIGHTS
from openvla_ros.model.checkpoints.merge import copy_small_files
from openvla_ros.model.checkpoints.safetensors import (
    checked_tensors,
    read_tensor,
    skeleton,
    stored_tensors,
)
from openvla_ros.model.checkpoints.verification import verify_files, write_checkpoint_sums
from openvla_ros.model.network.config_file import read_config
from openvla_ros.preprocessing.dataset_statistics import STATISTICS, write_statistics

SETTINGS = "finetune.json"  # of a run; not part of what is deployed


def write_checkpoint(folder: Path, base: Path, trained: Mapping[str, Tensor]) -> None:
    """Write the checkpoint ``base`` with the ``trained`` values, in each weight's stored type.

    Existing weights are replaced only once all new ones are written. Raises ``TrainingError`` if the disk is
    full.
    """
    stored = checked_tensors(base, skeleton(read_config(base)))
    verify_files(tensor.path for tensor in stored.values())
    written = []
    for path in sorted({tensor.path for tensor in stored.values()}):
        tensors = {}
        for key in (key for key, tensor in stored.items() if tensor.path == path):
            weight = read_tensor(stored[key], key)
            tensors[key] = (trained[key].to(weight.dtype) if key in trained else weight).contiguous()
        unfinished = folder / f"{path.name}.part"
        with writing(folder / path.name, TrainingError):
            save_file(tensors, unfinished, metadata={"format": "pt"})
        written.append(unfinished)
    manifest_path(folder).unlink(missing_ok=True)  # of a run that went on from here
    for unfinished in written:
        unfinished.replace(folder / unfinished.stem)
    copy_small_files(base, folder)


def write_description(folder: Path, manifest: Manifest) -> None:
    """Write the statistics and the manifest next to the weights, and last the checksums of all."""
    write_statistics(folder / STATISTICS, {manifest.dataset_key: manifest.statistics})
    write_manifest(folder, manifest)
    write_checkpoint_sums(
        folder, [ADAPTER_CONFIG, ADAPTER_WEIGHTS, *_written(folder), STATISTICS, MANIFEST_NAME]
    )


def _written(folder: Path) -> list[str]:
    """Return the names of the checkpoint's files in a run's folder, which contains others too."""
    if not (folder / "config.json").is_file():
        return []
    shards = {tensor.path.name for tensor in stored_tensors(folder).values()}
    return [*shards, *(path.name for path in folder.glob("*.json") if path.name != SETTINGS)]
