"""Checkpoints on disk or on the hub: a folder's tensors, and loading them onto a device.

The published layout: ``config.json``, safetensors shards with an index, ``tokenizer.json``,
``preprocessor_config.json`` and, after fine-tuning, ``dataset_statistics.json``. Only safetensors
are read: a pickle is never opened and no code of a checkpoint is ever run.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import safe_open
from torch import Tensor, nn
from tqdm import tqdm

from openvla_ros.errors import CheckpointError
from openvla_ros.integrity.checksums import check_present
from openvla_ros.integrity.damage import reading
from openvla_ros.model.checkpoints.verification import verified_meanwhile
from openvla_ros.model.network.bitsandbytes_layers import Integers, assign_quantized, make_quantized_layers
from openvla_ros.model.network.config import OpenVLAConfig
from openvla_ros.model.network.config_file import read_config, read_json
from openvla_ros.model.network.openvla import OpenVLA
from openvla_ros.resources import shipped_checkpoints

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_STORED = {"F32": 4, "BF16": 2, "F16": 2}  # safetensors' names of the types that weights may have, bytes
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SAMPLED = 256  # values of a tensor that a digest looks at
_NAMED = 5  # how many keys an error lists before it only counts


@dataclass(frozen=True)
class StoredTensor:
    """The location of one tensor, and its header."""

    path: Path
    shape: tuple[int, ...]
    stored_type: str  # safetensors' name: "BF16"

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return math.prod(self.shape) * _STORED[self.stored_type]


def resolve(source: str | Path, *, offline: bool = False, revision: str | None = None) -> Path:
    """Return the local folder of ``source``.

    ``source`` is a folder, a hub id (downloaded unless cached), or the name of a checkpoint in this
    package. Raises ``CheckpointError`` if it is none of them, does not exist, or cannot be downloaded.
    """
    folder = Path(source)
    if folder.is_dir():
        check_present(folder)
        return folder
    if folder.exists():
        raise CheckpointError(f"{source} is a file; a checkpoint is a folder or a hub id")
    shipped = shipped_checkpoints()
    if str(source) in shipped:
        return shipped[str(source)]
    if not _HUB_ID.fullmatch(str(source)):
        raise CheckpointError(
            f"{source} is neither a folder, nor a hub id (owner/name), nor one of the package's own "
            f"checkpoints ({', '.join(sorted(shipped)) or 'there are none'})"
        )
    try:
        path = snapshot_download(
            str(source),
            revision=revision,
            allow_patterns=["*.json", "*.safetensors"],
            local_files_only=offline,
        )
    except LocalEntryNotFoundError as error:
        how = "is not in the local cache" if offline else "is not cached and the hub cannot be reached"
        raise CheckpointError(f"checkpoint {source} is not a folder here, and {how}") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise CheckpointError(f"checkpoint {source} cannot be downloaded: {error}") from error
    return Path(path)


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return every tensor of the checkpoint in ``folder``, read from the headers alone.

    Raises ``CheckpointError`` for a shard that is missing, truncated or of another type than the
    index says, and for a folder without safetensors.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in _shards(folder):
        tensors.update(read_header(path))
    if (folder / INDEX).is_file():
        _check_index(folder, tensors)
    return tensors


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one safetensors file without reading their data."""
    with reading(f"{path}: truncated or damaged", CheckpointError), safe_open(path, framework="pt") as shard:
        slices = {key: shard.get_slice(key) for key in shard.keys()}  # noqa: SIM118  not a dict
        found = {k: StoredTensor(path, tuple(s.get_shape()), s.get_dtype()) for k, s in slices.items()}
    for key, tensor in found.items():
        if tensor.stored_type not in _STORED:
            raise CheckpointError(
                f"{path}: {key} is stored as {tensor.stored_type}; it must be one of {', '.join(_STORED)}"
            )
    return found


def read_tensor(stored: StoredTensor, key: str) -> Tensor:
    """Return one tensor, mapped from its file; the mapping lives as long as the tensor."""
    with reading(stored.path, CheckpointError), safe_open(stored.path, framework="pt") as shard:
        return shard.get_tensor(key)  # type: ignore[no-any-return]


def digest_of_weights(folder: Path) -> str:
    """Return a digest that distinguishes models of the same shape, from a few values of every tensor.

    Copies with other shards or another floating-point type have the same digest: values are converted to
    bfloat16. Raises as ``stored_tensors``.
    """
    samples = {}
    stored = stored_tensors(folder)
    for path in {tensor.path for tensor in stored.values()}:
        with safe_open(path, framework="pt") as shard:
            for key in (key for key, tensor in stored.items() if tensor.path == path):
                first = shard.get_slice(key)[:1] if stored[key].shape else shard.get_tensor(key)
                values = first.reshape(-1)[:_SAMPLED].to(torch.bfloat16).view(torch.int16)
                samples[key] = values.numpy().tobytes()
    digest = hashlib.sha256()
    for key, values in sorted(samples.items()):
        digest.update(f"{key} {stored[key].shape}".encode() + values)
    return digest.hexdigest()


@torch.inference_mode(False)  # also inside a caller's inference mode: the weights must stay trainable
def load_model(
    source: str | Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    quantization: Integers | None = None,
    offline: bool = False,
    progress: bool | None = None,
) -> OpenVLA:
    """Return the network of a local folder or a hub id, in evaluation mode, on ``device``.

    Each tensor is mapped, copied once to its destination, and unmapped, while other threads verify the
    files' checksums; with ``quantization`` the linear layers' weights are quantised on the way. ``progress``
    shows a bar; ``None`` shows it only in a terminal. Raises ``CheckpointError`` naming what is wrong with
    the folder.
    """
    folder = resolve(source, offline=offline)
    config = read_config(folder)
    model = skeleton(config)
    stored = checked_tensors(folder, model)
    model.drop_dead_weights()
    wanted = {key: stored[key] for key in model.state_dict() if key in stored}
    integers = make_quantized_layers(model, quantization, dtype, device) if quantization else frozenset()
    with verified_meanwhile(tensor.path for tensor in stored.values()):
        for key, tensor in _read_all(wanted, progress):
            if quantization and key in integers:
                assign_quantized(model, key, tensor.to(dtype, copy=True), quantization, device)
            else:
                assign(model, key, tensor.to(device=device, dtype=dtype, copy=True))
    if config.text_config.tie_word_embeddings:
        model.language_model.lm_head.weight = model.language_model.model.embed_tokens.weight
    model.restore_buffers(torch.device(device))
    return model.eval()


def skeleton(config: OpenVLAConfig) -> OpenVLA:
    """Return the network without memory for its weights; every published key is in it."""
    with torch.device("meta"):
        return OpenVLA(config)


def checked_tensors(folder: Path, model: OpenVLA) -> dict[str, StoredTensor]:
    """Return the tensors in ``folder`` after comparing names and shapes with ``model``."""
    stored = stored_tensors(folder)
    problems = differences(model, stored)
    if problems:
        raise CheckpointError(f"{folder} does not match its config.json: " + "; ".join(problems))
    return stored


def differences(model: OpenVLA, stored: Mapping[str, StoredTensor]) -> list[str]:
    """Return the differences between ``stored`` tensors and ``model``; empty if none."""
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if model.config.text_config.tie_word_embeddings and "language_model.lm_head.weight" not in stored:
        del expected["language_model.lm_head.weight"]
    return compare_keys(expected, {key: tensor.shape for key, tensor in stored.items()})


def compare_keys(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return the differences between two tables of tensor names and shapes; empty if none."""
    missing = [key for key in expected if key not in found]
    extra = [key for key in found if key not in expected]
    shapes = [
        f"{key} is {list(found[key])}, must be {list(shape)}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    lines = (("missing keys", missing), ("unknown keys", extra), ("wrong shapes", shapes))
    return [f"{len(items)} {name}: {_some(items)}" for name, items in lines if items]


def assign(model: nn.Module, key: str, tensor: Tensor) -> None:
    """Make ``tensor`` the parameter ``key`` of ``model``."""
    module, _, name = key.rpartition(".")
    setattr(model.get_submodule(module), name, nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))


def _shards(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        weight_map = read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{folder / INDEX}: has no weight_map")
        names = sorted({str(name) for name in weight_map.values()})
        for name in names:
            if Path(name).name != name or not (folder / name).is_file():
                raise CheckpointError(f"{folder / INDEX} lists the shard {name}, which is missing")
        return [folder / name for name in names]
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder} is a LoRA adapter; give its base as the checkpoint, and this folder as the adapter"
        )
    pickles = sorted(path.name for suffix in ("*.bin", "*.pt", "*.pth") for path in folder.rglob(suffix))
    if pickles:
        raise CheckpointError(
            f"{folder} contains pickles ({_some(pickles)}) and no safetensors; "
            "openvla convert-checkpoint converts a Prismatic .pt"
        )
    raise CheckpointError(f"{folder} has neither {SINGLE} nor {INDEX}")


def _check_index(folder: Path, tensors: Mapping[str, StoredTensor]) -> None:
    index = read_json(folder / INDEX)
    weight_map = index["weight_map"]
    lost = [key for key, name in weight_map.items() if key not in tensors or tensors[key].path.name != name]
    if lost:
        raise CheckpointError(f"{folder / INDEX} lists keys that are not in its shards: {_some(lost)}")
    metadata = index.get("metadata")
    said = metadata.get("total_size") if isinstance(metadata, dict) else None
    held = sum(tensor.size_bytes for tensor in tensors.values())
    if said not in (None, held):
        raise CheckpointError(
            f"{folder / INDEX}: total_size is {said!r}; the shards contain {held} bytes of tensors"
        )


def _read_all(stored: Mapping[str, StoredTensor], progress: bool | None) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor, shard by shard and the largest first, to keep peak memory low."""
    order = sorted(stored, key=lambda key: (stored[key].path, -stored[key].size_bytes))
    hidden = not sys.stderr.isatty() if progress is None else not progress
    total = sum(tensor.size_bytes for tensor in stored.values())
    with tqdm(total=total, unit="B", unit_scale=True, desc="loading weights", disable=hidden) as bar:
        for key in order:
            yield key, read_tensor(stored[key], key)
            bar.update(stored[key].size_bytes)


def _some(items: list[str]) -> str:
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return ", ".join(items[:_NAMED]) + more
