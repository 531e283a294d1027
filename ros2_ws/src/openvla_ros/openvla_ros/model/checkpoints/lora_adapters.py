"""LoRA adapters in peft's format: loaded, applied unmerged, and switched between calls.

A hook on each adapted module adds ``scale * B(A(x))`` to its output (DoRA: and scales the sum), so the
network's modules and parameter names stay as they are. Several adapters can be loaded at once; activating
one only swaps a table. ``merge_adapter`` writes a merged checkpoint instead.
Method: Hu et al., arXiv 2106.09685. File format: peft's ``adapter_config.json`` and
``adapter_model.safetensors``, old ``all-linear`` adapters (output head, patch convolution) included.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from torch import Tensor, nn

from openvla_ros.errors import CheckpointError, ManifestError
from openvla_ros.integrity.checksums import check_present, expected_digest
from openvla_ros.manifest import MANIFEST_NAME, manifest_path, read_manifest
from openvla_ros.model.checkpoints.adapter_config import ADAPTER_CONFIG, AdapterConfig, read_adapter_config
from openvla_ros.model.checkpoints.initial_update import (
    COMPUTABLE,
    INITIAL,
    advice,
    initial_factors,
    without_initial,
)
from openvla_ros.model.checkpoints.safetensors import (
    StoredTensor,
    read_header,
    read_tensor,
    skeleton,
    stored_tensors,
)
from openvla_ros.model.checkpoints.verification import verify_files
from openvla_ros.model.network.lora_delta import ActiveAdapter, LowRankUpdate
from openvla_ros.model.network.openvla import OpenVLA

logger = logging.getLogger(__name__)

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."  # peft's wrapping of every name
_PART = re.compile(
    r"(?P<module>.+)\.lora_((?P<factor>[AB])\.weight|(?P<magnitude>magnitude_vector)(\.weight)?)"
)


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


# Rows of a batch, and the updates that are added to them.
Rows = tuple[tuple[slice, Mapping[str, LowRankUpdate]], ...]


class AdapterSet:
    """The adapters loaded for one network; at most one is active."""

    def __init__(self, network: OpenVLA) -> None:
        self._network = network
        self._loaded: dict[str, ActiveAdapter] = {}
        self._current: Rows = ()
        self._by_row = threading.local()  # its ``rows`` take the place of what is active, on one thread
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
        adapter = self.of(name)
        self._current = () if adapter is None else ((slice(None), adapter.updates),)
        self._network.adapter = adapter

    def of(self, name: str | None) -> ActiveAdapter | None:
        """Return the loaded adapter ``name``, or None for the base model; raises ``CheckpointError``."""
        return None if name is None else self._known(name)

    @contextmanager
    def by_row(self, names: Sequence[str | None]) -> Iterator[None]:
        """Use the adapter ``names[i]`` for row i of every module's input, for a while and on this thread.

        The language model's modules must not be called meanwhile: ``kernels.row_maps`` are for those.
        """
        first, current = 0, []
        for name, same in groupby(names):
            end = first + len(list(same))
            if (adapter := self.of(name)) is not None:
                current.append((slice(first, end), adapter.updates))
            first = end
        self._by_row.rows = tuple(current)
        try:
            yield
        finally:
            del self._by_row.rows

    def _known(self, name: str) -> ActiveAdapter:
        if name not in self._loaded:
            raise CheckpointError(f"no adapter {name!r} is loaded; loaded: {', '.join(self.names) or 'none'}")
        return self._loaded[name]

    def _placed(self, update: LowRankUpdate) -> LowRankUpdate:
        device, dtype = self._network.device, self._network.dtype
        gain = None if update.gain is None else update.gain.to(device, dtype)
        return replace(update, down=update.down.to(device, dtype), up=update.up.to(device, dtype), gain=gain)

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        def add_update(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            adapted = None
            current: Rows = getattr(self._by_row, "rows", self._current)
            for rows, updates in current:
                if name in updates:
                    part = updates[name].apply(module, inputs[0][rows], output[rows])
                    if rows == slice(None):
                        return part
                    adapted = output.clone() if adapted is None else adapted
                    adapted[rows] = part
            return adapted

        return add_update


def read_adapter(folder: str | Path, base: Path | None = None) -> Adapter:
    """Return the adapter in ``folder``, on the CPU, as it acts on the published base.

    Its files' checksums are verified first. ``base`` is the folder of the base's weights, which adapters need
    whose training changed them (PiSSA, OLoRA) or that scale them (DoRA); whoever loads the base verifies it.
    Raises ``CheckpointError`` for anything but LoRA in safetensors, and for what cannot be converted.
    """
    folder = Path(folder)
    check_present(folder)
    config = read_adapter_config(folder)
    _check_trained_with(folder, config)
    updates = _read_updates(folder, config)
    if config.initialisation is not None:
        updates = _on_published_base(folder, config, updates, base)
    if config.use_dora:
        updates = _with_gains(folder, updates, base)
    return Adapter(str(folder), config, updates)


def _check_trained_with(folder: Path, config: AdapterConfig) -> None:
    """Raise ``ManifestError`` if the manifest, if there is one, states another configuration."""
    if not manifest_path(folder).is_file():
        return
    found, stated = config.meaning(), read_manifest(folder).adapter_config or {}
    different = [
        f"{name} is {found.get(name)!r}, trained with {value!r}"
        for name, value in stated.items()
        if found.get(name) != value
    ]
    if different:
        raise ManifestError(
            f"{folder / ADAPTER_CONFIG} is not what {MANIFEST_NAME} states: {'; '.join(different)}"
        )


def _read_updates(folder: Path, config: AdapterConfig) -> dict[str, LowRankUpdate]:
    """Return the update of each module as it is stored."""
    stored = adapter_tensors(folder)
    verify_adapter(folder)
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in stored.items():
        match = _PART.fullmatch(key.removeprefix(_PREFIX))
        if match is None or not key.startswith(_PREFIX) or (match["magnitude"] and not config.use_dora):
            raise CheckpointError(f"{folder / ADAPTER_WEIGHTS}: {key} is not a LoRA factor")
        parts.setdefault(match["module"], {})[match["factor"] or "magnitude"] = read_tensor(
            tensor, key
        ).clone()
    return {name: _update(folder, config, name, found) for name, found in sorted(parts.items())}


def _on_published_base(
    folder: Path, config: AdapterConfig, updates: Mapping[str, LowRankUpdate], base: Path | None
) -> dict[str, LowRankUpdate]:
    """Return the updates without the initial ones, which training took out of the base's weights."""
    how = str(config.initialisation)
    what = (
        f"{folder}: its training changed the base's weights (init_lora_weights {config.init_lora_weights!r})"
    )
    initial = folder / INITIAL
    if how == "loftq" or not (initial.is_dir() or how in COMPUTABLE):
        raise CheckpointError(f"{what} in a way that its files do not contain: {advice(how)}")
    logger.info("%s: converting %d modules", what, len(updates))
    if initial.is_dir():
        first = _read_updates(initial, read_adapter_config(initial))
        _check_same_modules(initial, first, updates)
        factors = (
            (first[name].down, first[name].up * (first[name].scale / updates[name].scale)) for name in updates
        )
    else:
        weights = _BaseWeights(folder, base)
        for name, update in updates.items():
            _check_shape(str(folder), name, update, weights[name])
        factors = (initial_factors(how, weights[name], len(u.down), u.scale) for name, u in updates.items())
    return {name: _converted(what, how, name, updates[name], factors) for name in updates}


def _converted(
    what: str, how: str, module: str, update: LowRankUpdate, factors: Iterator[tuple[Tensor, Tensor]]
) -> LowRankUpdate:
    try:
        return without_initial(update, *next(factors))
    except CheckpointError as error:
        raise CheckpointError(f"{what}, and {module} cannot be converted: {error}; {advice(how)}") from error


def _check_same_modules(
    initial: Path, first: Mapping[str, LowRankUpdate], updates: Mapping[str, LowRankUpdate]
) -> None:
    different = sorted(first.keys() ^ updates.keys())
    if different:
        raise CheckpointError(
            f"{initial}: adapts other modules than the trained adapter: {', '.join(different[:3])}"
        )


def _with_gains(
    folder: Path, updates: Mapping[str, LowRankUpdate], base: Path | None
) -> dict[str, LowRankUpdate]:
    """Return DoRA's updates with the gain in place of the magnitude: the wanted norm over the present one."""
    weights = _BaseWeights(folder, base)
    scaled = {}
    for name, update in updates.items():
        if update.gain is None:
            raise CheckpointError(f"{folder / ADAPTER_WEIGHTS}: {name} has no lora_magnitude_vector")
        weight = weights[name]
        _check_shape(str(folder), name, update, weight)
        total = weight.float() + update.weight()
        if update.gain.numel() != len(total):
            raise CheckpointError(
                f"{folder / ADAPTER_WEIGHTS}: {name} has {update.gain.numel()} magnitudes; its weight has "
                f"{len(total)} rows"
            )
        scaled[name] = replace(update, gain=update.gain.float().reshape(-1) / total.flatten(1).norm(dim=1))
    return scaled


class _BaseWeights:
    """The weights of an adapter's base, read one at a time."""

    def __init__(self, adapter: Path, base: Path | None) -> None:
        if base is None:
            raise CheckpointError(
                f"{adapter}: this adapter can only be read together with its base's weights"
            )
        self._adapter, self._base, self._stored = adapter, base, stored_tensors(base)

    def __getitem__(self, module: str) -> Tensor:
        key = f"{module}.weight"
        if key not in self._stored:
            raise CheckpointError(f"{self._adapter}: adapts {module}, which {self._base} does not have")
        return read_tensor(self._stored[key], key)


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


def _update(folder: Path, config: AdapterConfig, module: str, parts: Mapping[str, Tensor]) -> LowRankUpdate:
    for factor in "AB":
        if factor not in parts:
            raise CheckpointError(f"{folder / ADAPTER_WEIGHTS}: {module} has no lora_{factor}")
    down, up = parts["A"], parts["B"]
    rank = config.rank(module)
    if down.shape[0] != rank or up.shape[1] != rank:
        raise CheckpointError(
            f"{folder / ADAPTER_WEIGHTS}: the factors of {module} are {list(down.shape)} and "
            f"{list(up.shape)}; {ADAPTER_CONFIG} states rank {rank}"
        )
    return LowRankUpdate(down, up, config.scale(module, rank), parts.get("magnitude"))


def check_fits(adapter: Adapter, network: OpenVLA) -> None:
    """Raise ``CheckpointError`` unless every update has the shape of the weight that it belongs to."""
    whole = skeleton(network.config).state_dict()
    for module, update in adapter.updates.items():
        weight = whole.get(f"{module}.weight")
        if weight is None:
            raise CheckpointError(f"{adapter.source}: adapts {module}, which the model does not have")
        _check_shape(adapter.source, module, update, weight)


def _check_shape(source: str, module: str, update: LowRankUpdate, weight: Tensor) -> None:
    inside = (update.up.shape[0], *update.down.shape[1:])
    if inside != tuple(weight.shape):
        raise CheckpointError(
            f"{source}: the update of {module} is {list(inside)}, its weight {list(weight.shape)}"
        )
