"""Merges an adapter into its base: a new checkpoint, written shard by shard to save memory."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from openvla_ros.errors import CheckpointError
from openvla_ros.integrity.checksums import verify
from openvla_ros.integrity.disk import writing
from openvla_ros.manifest import Manifest, manifest_path, read_manifest, write_manifest
from openvla_ros.model.checkpoints.lora_adapters import Adapter, check_fits, read_adapter
from openvla_ros.model.checkpoints.safetensors import (
    INDEX,
    StoredTensor,
    checked_tensors,
    read_tensor,
    skeleton,
)
from openvla_ros.model.checkpoints.verification import verify_files, write_checkpoint_sums
from openvla_ros.model.network.config_file import read_config
from openvla_ros.preprocessing.dataset_statistics import STATISTICS, write_statistics


def merge_adapter(base: Path, adapter_folder: Path, out: Path) -> None:
    """Write ``base`` with the adapter added to its weights into the new folder ``out``.

    The sum is computed in float32 and stored in each weight's own type. Raises ``CheckpointError`` if the
    adapter does not match, ``out`` exists or the disk is full.
    """
    network = skeleton(read_config(base))
    stored = checked_tensors(base, network)
    verify_files(tensor.path for tensor in stored.values())
    adapter = read_adapter(adapter_folder, base)
    manifest = read_manifest(adapter_folder) if manifest_path(adapter_folder).is_file() else None
    if manifest is not None:
        manifest.check_statistics(adapter_folder)
    check_fits(adapter, network)
    with writing(out, CheckpointError):
        _write_merged(base, stored, adapter, adapter_folder, manifest, new_folder(out))


def _write_merged(
    base: Path,
    stored: Mapping[str, StoredTensor],
    adapter: Adapter,
    adapter_folder: Path,
    manifest: Manifest | None,
    out: Path,
) -> None:
    for path in sorted({tensor.path for tensor in stored.values()}):
        keys = [key for key, tensor in stored.items() if tensor.path == path]
        tensors = {key: _merged(adapter, key, read_tensor(stored[key], key)) for key in keys}
        save_file(tensors, out / path.name, metadata={"format": "pt"})
    copy_small_files(base, out)
    manifest_path(out).unlink(missing_ok=True)  # the base's: this is another model
    if (adapter_folder / STATISTICS).is_file():
        shutil.copyfile(adapter_folder / STATISTICS, out / STATISTICS)
    elif manifest is not None:
        write_statistics(out / STATISTICS, {manifest.dataset_key: manifest.statistics})
    if manifest is not None:
        write_manifest(out, replace(manifest, adapter_sha256=None, adapter_config=None))
    write_checkpoint_sums(out, (path.name for path in out.iterdir()))


def new_folder(out: Path) -> Path:
    """Create ``out``; raises ``CheckpointError`` if it exists."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} already exists; choose a new folder")
    out.mkdir(parents=True, exist_ok=True)
    return out


def copy_small_files(source: Path, out: Path) -> None:
    """Copy everything of a checkpoint but its weights and code."""
    for path in sorted(source.glob("*.json")):
        if path.name == INDEX or not path.name.endswith(".index.json"):
            verify(path)
            shutil.copyfile(path, out / path.name)


def _merged(adapter: Adapter, key: str, weight: Tensor) -> Tensor:
    update = adapter.updates.get(key.removesuffix(".weight")) if key.endswith(".weight") else None
    if update is None:
        return weight.contiguous()
    return update.merged(weight).to(weight.dtype).contiguous()
