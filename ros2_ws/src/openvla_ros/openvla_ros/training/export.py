"""What a run leaves behind for deployment: an adapter or a checkpoint, statistics and the manifest.

The manifest is written last and holds the hash of an adapter, so a folder in which a writer was
killed is refused, never half used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from openvla_ros.manifest import Manifest, manifest_path, write_manifest
from openvla_ros.model.checkpoint import STATISTICS, checked_tensors, read_tensor, skeleton
from openvla_ros.model.config_file import read_config
from openvla_ros.model.merging import copy_small_files
from openvla_ros.statistics import write_statistics


def write_checkpoint(folder: Path, base: Path, trained: Mapping[str, Tensor]) -> None:
    """Write the checkpoint ``base`` with ``trained`` values in their place, in each weight's stored type.

    Weights that are there are replaced only once all new ones are written.
    """
    stored = checked_tensors(base, skeleton(read_config(base)))
    written = []
    for path in sorted({tensor.path for tensor in stored.values()}):
        tensors = {}
        for key in (key for key, tensor in stored.items() if tensor.path == path):
            weight = read_tensor(stored[key], key)
            tensors[key] = (trained[key].to(weight.dtype) if key in trained else weight).contiguous()
        unfinished = folder / f"{path.name}.part"
        save_file(tensors, unfinished, metadata={"format": "pt"})
        written.append(unfinished)
    manifest_path(folder).unlink(missing_ok=True)  # of a run that went on from here
    for unfinished in written:
        unfinished.replace(folder / unfinished.stem)
    copy_small_files(base, folder)


def write_description(folder: Path, manifest: Manifest) -> None:
    """Write the statistics and the manifest beside the weights."""
    write_statistics(folder / STATISTICS, {manifest.dataset_key: manifest.statistics})
    write_manifest(folder, manifest)
