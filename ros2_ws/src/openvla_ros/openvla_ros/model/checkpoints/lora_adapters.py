"""LoRA adapters in peft's format: loaded, applied unmerged, and switched between calls.

A hook on each adapted module adds ``scale * B(A(x))`` to its output, so the network's modules and
parameter names stay as they are. Several adapters can be loaded at once; activating one only
swaps a table. ``merge_adapter`` writes a merged checkpoint instead.
Method: Hu et al., arXiv 2106.09685. File format: peft's ``adapter_config.json`` and
``adapter_model.safetensors``, old ``all-linear`` adapters (output head, patch convolution) included.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor, nn

from openvla_ros.errors import CheckpointError
from openvla_ros.integrity.checksums import check_present, expected_digest
from openvla_ros.integrity.validation import validation_lines
from openvla_ros.manifest import manifest_path, read_manifest
from openvla_ros.model.checkpoints.safetensors import StoredTensor, read_header, read_tensor, skeleton
from openvla_ros.model.checkpoints.verification import verify_files
from openvla_ros.model.network.config_file import read_json
from openvla_ros.model.network.lora_delta import ActiveAdapter, LowRankUpdate
from openvla_ros.model.network.openvla import OpenVLA

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."  # peft's wrapping of every name
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")


@checked_dataclass(frozen=True, config=ConfigDict(extra="ignore", allow_inf_nan=False))
class AdapterConfig:
    """The parts of ``adapter_config.json`` that change what an adapter computes."""

    peft_type: Literal["LORA"]
    r: Annotated[int, Field(gt=0)]
    lora_alpha: Annotated[float, Field(gt=0)]
    use_rslora: bool = False
    use_dora: Literal[False] = False
    fan_in_fan_out: Literal[False] = False
    lora_bias: Literal[False] = False
    bias: Literal["none"] = "none"
    modules_to_save: Annotated[list[str], Field(max_length=0)] | None = None
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    base_model_name_or_path: str | None = None

    def scale(self, module: str, rank: int) -> float:
        """Return the factor of ``module``'s update, whose factors have ``rank`` columns."""
        alpha = next(
            (a for pattern, a in (self.alpha_pattern or {}).items() if _matches(pattern, module)),
            self.lora_alpha,
        )
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def rank(self, module: str) -> int:
        """Return the rank that the configuration states for ``module``."""
        patterns = (self.rank_pattern or {}).items()
        return next((r for pattern, r in patterns if _matches(pattern, module)), self.r)


@dataclass(frozen=True, eq=False)
class Adapter:
    """One adapter as it is stored: an update for each module that it names."""

    source: str
    config: AdapterConfig
    updates: Mapping[str, LowRankUpdate]

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(update.down.numel() + update.up.numel() for update in self.updates.values())


class AdapterSet:
    """The adapters loaded for one network; at most one is active."""

    def __init__(self, network: OpenVLA) -> None:
        self._network = network
        self._loaded: dict[str, ActiveAdapter] = {}
        self._current: Mapping[str, LowRankUpdate] = {}
        self._hooked: set[str] = set()
        self._added = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that are loaded."""
        return tuple(self._loaded)

    def add(self, name: str, adapter: Adapter) -> None:
        """Put ``adapter`` on the network's device, ready to be activated as ``name``.

        Updates to weights that OpenVLA never computes are skipped: they have no effect. Raises
        ``CheckpointError`` if a module is unknown or its shape does not match.
        """
        if name in self._loaded:
            raise CheckpointError(f"adapter {name!r} is already loaded; remove it first")
        check_fits(adapter, self._network)
        modules = dict(self._network.named_modules())
        live = {module: update for module, update in adapter.updates.items() if module in modules}
        self._added += 1
        placed = {module: self._placed(update) for module, update in live.items()}
        self._loaded[name] = ActiveAdapter(name, self._added, placed)
        for module in live.keys() - self._hooked:
            modules[module].register_forward_hook(self._hook(module))
            self._hooked.add(module)

    def remove(self, name: str) -> None:
        """Unload the adapter ``name``; if it is active, the base model becomes active."""
        self._known(name)
        if self._network.adapter is not None and self._network.adapter.name == name:
            self.activate(None)
        del self._loaded[name]

    def activate(self, name: str | None) -> None:
        """Use the adapter ``name`` from the next call on, or the base model for ``None``."""
        adapter = None if name is None else self._known(name)
        self._current = {} if adapter is None else adapter.updates
        self._network.adapter = adapter

    def _known(self, name: str) -> ActiveAdapter:
        if name not in self._loaded:
            raise CheckpointError(f"no adapter {name!r} is loaded; loaded: {', '.join(self.names) or 'none'}")
        return self._loaded[name]

    def _placed(self, update: LowRankUpdate) -> LowRankUpdate:
        device, dtype = self._network.device, self._network.dtype
        return LowRankUpdate(update.down.to(device, dtype), update.up.to(device, dtype), update.scale)

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        def add_update(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            update = self._current.get(name)
            return None if update is None else output + update(module, inputs[0]).to(output.dtype)

        return add_update


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Return the configuration in ``folder/adapter_config.json``; raises ``CheckpointError``."""
    path = folder / ADAPTER_CONFIG
    data = {key: value for key, value in read_json(path).items() if value is not None}
    try:
        return TypeAdapter(AdapterConfig).validate_python(data)
    except ValidationError as error:
        wrong = "; ".join(validation_lines(error, "adapter"))
        raise CheckpointError(f"{path}: {wrong}") from error


def read_adapter(folder: str | Path) -> Adapter:
    """Return the adapter in ``folder``, on the CPU, in its stored type.

    Its files' checksums are verified first. Raises ``CheckpointError`` for anything but a plain LoRA in
    safetensors.
    """
    folder = Path(folder)
    check_present(folder)
    config = read_adapter_config(folder)
    stored = adapter_tensors(folder)
    verify_adapter(folder)
    factors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in stored.items():
        match = _FACTOR.fullmatch(key.removeprefix(_PREFIX))
        if match is None or not key.startswith(_PREFIX):
            raise CheckpointError(f"{folder / ADAPTER_WEIGHTS}: {key} is not a LoRA factor")
        factors.setdefault(match["module"], {})[match["factor"]] = read_tensor(tensor, key).clone()
    updates = {name: _update(folder, config, name, pair) for name, pair in sorted(factors.items())}
    return Adapter(str(folder), config, updates)


def verify_adapter(folder: Path) -> None:
    """Verify an adapter's weights against their checksum, or the hash in its manifest.

    Raises ``ChecksumError`` or ``ManifestError`` if they differ.
    """
    weights = folder / ADAPTER_WEIGHTS
    if expected_digest(weights) is None and manifest_path(folder).is_file():
        read_manifest(folder).check_adapter(folder)
    else:
        verify_files([weights])


def adapter_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return the adapter's tensors, from the headers; raises ``CheckpointError``."""
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        pickle = folder / "adapter_model.bin"
        why = f"; {pickle.name} is a pickle and pickles are never opened" if pickle.exists() else ""
        raise CheckpointError(f"{folder} has no {ADAPTER_WEIGHTS}{why}")
    stored = read_header(path)
    if not stored:
        raise CheckpointError(f"{path} contains no tensors")
    return stored


def _update(folder: Path, config: AdapterConfig, module: str, pair: Mapping[str, Tensor]) -> LowRankUpdate:
    for factor in "AB":
        if factor not in pair:
            raise CheckpointError(f"{folder / ADAPTER_WEIGHTS}: {module} has no lora_{factor}")
    down, up = pair["A"], pair["B"]
    rank = config.rank(module)
    if down.shape[0] != rank or up.shape[1] != rank:
        raise CheckpointError(
            f"{folder / ADAPTER_WEIGHTS}: the factors of {module} are {list(down.shape)} and "
            f"{list(up.shape)}; {ADAPTER_CONFIG} states rank {rank}"
        )
    return LowRankUpdate(down, up, config.scale(module, rank))


def check_fits(adapter: Adapter, network: OpenVLA) -> None:
    """Raise ``CheckpointError`` unless every update has the shape of the weight that it belongs to."""
    whole = skeleton(network.config).state_dict()
    for module, update in adapter.updates.items():
        weight = whole.get(f"{module}.weight")
        if weight is None:
            raise CheckpointError(f"{adapter.source}: adapts {module}, which the model does not have")
        inside = (update.up.shape[0], *update.down.shape[1:])
        if inside != tuple(weight.shape):
            raise CheckpointError(
                f"{adapter.source}: the update of {module} is {list(inside)}, its weight {list(weight.shape)}"
            )


def _matches(pattern: str, module: str) -> bool:
    """Return whether a pattern of peft's ``rank_pattern`` or ``alpha_pattern`` matches ``module``."""
    return re.match(rf"(.*\.)?({pattern})$", module) is not None
