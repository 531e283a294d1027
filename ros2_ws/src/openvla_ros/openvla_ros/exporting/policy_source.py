"""What is exported: a checkpoint with its adapter, loaded in float32, and all that its actions depend on.

What a manifest states is used, as on the robot, and a choice that differs from it is refused. A checkpoint
without one has the action space of its dataset if that is known, else of the robot that was named, else none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from openvla_ros.data.formats.rlds_conventions import convention_table
from openvla_ros.errors import CheckpointError, InvalidValueError, ManifestError, StatisticsError
from openvla_ros.integrity.checksums import check_present
from openvla_ros.manifest import Manifest, manifest_path, read_manifest
from openvla_ros.model.checkpoints.lora_adapters import ADAPTER_WEIGHTS
from openvla_ros.model.checkpoints.safetensors import digest_of_weights, resolve, stored_tensors
from openvla_ros.model.inference.checkpoint_files import CheckpointFiles
from openvla_ros.model.inference.inspection import kind_of
from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.model.inference.predictor import OpenVLAPredictor, load_predictor, read_checkpoint_statistics
from openvla_ros.policy.published_checkpoint import check_published
from openvla_ros.preprocessing.dataset_statistics import DatasetStatistics
from openvla_ros.preprocessing.prompt import PromptStyle
from openvla_ros.profile import RobotProfile
from openvla_ros.values.action import ActionSpace


@dataclass(frozen=True)
class ExportChoices:
    """Which policy is exported; ``None``: as the manifest states or, without one, the default."""

    checkpoint: str
    adapter: Path | None = None
    unnorm_key: str | None = None
    center_crop: bool | None = None
    prompt_style: PromptStyle | None = None
    robot: RobotProfile | None = (
        None  # which the actions must fit, and whose space they have if none is known
    )
    offline: bool = False


@dataclass(frozen=True, eq=False)
class PolicySource:
    """A policy that is ready to be exported."""

    name: str
    files: CheckpointFiles
    predictor: OpenVLAPredictor  # in float32 on the CPU; decodes the widest action that is asked for
    statistics: Mapping[str, DatasetStatistics]  # of every dataset that the bundle serves
    unnorm_key: str | None  # None: there are several, and whoever runs the bundle chooses
    space: ActionSpace | None  # None: nothing states it
    space_origin: str
    weights: tuple[Path, ...]  # the files that the weights come from, the adapter's included

    @property
    def width(self) -> int:
        """The number of tokens of the widest action."""
        return self.statistics[self.widest].action.width

    @property
    def widest(self) -> str:
        """The dataset whose actions have the most dimensions: its tokens begin with those of any other."""
        return widest_of(self.statistics)


def load_policy_source(choices: ExportChoices) -> PolicySource:
    """Load what is exported. Raises ``CheckpointError``, ``ManifestError`` and ``StatisticsError``."""
    adapter = choices.adapter
    manifest = None if adapter is None else _manifest_in(adapter)
    folder = resolve(
        choices.checkpoint,
        offline=choices.offline,
        revision=None if manifest is None else manifest.base_revision,
    )
    _check_kind(folder)
    manifest = manifest or _manifest_in(folder if adapter is None else adapter)
    if manifest is not None:
        choices = _agreed(choices, manifest, folder)
        statistics = {manifest.dataset_key: manifest.statistics}
    else:
        statistics = _chosen_statistics(folder, choices)
    key = next(iter(statistics)) if len(statistics) == 1 else None
    space, origin = _action_space(choices, manifest, key, statistics)
    options = LoadOptions(
        adapter=adapter,
        unnorm_key=widest_of(statistics),
        statistics=statistics,
        center_crop=bool(choices.center_crop),
        prompt_style=choices.prompt_style,
        dtype=torch.float32,
        offline=choices.offline,
    )
    predictor = load_predictor(folder, options)
    weights = sorted({tensor.path for tensor in stored_tensors(folder).values()})
    if adapter is not None:
        weights.append(adapter / ADAPTER_WEIGHTS)
    name = choices.checkpoint if adapter is None else f"{choices.checkpoint} with {adapter}"
    files = CheckpointFiles.read(folder, offline=choices.offline)
    return PolicySource(name, files, predictor, statistics, key, space, origin, tuple(weights))


def widest_of(statistics: Mapping[str, DatasetStatistics]) -> str:
    """Return the dataset whose actions have the most dimensions."""
    return max(statistics, key=lambda name: statistics[name].action.width)


def _check_kind(folder: Path) -> None:
    kind = kind_of(folder)
    if kind == "openvla-oft":
        raise CheckpointError(
            f"{folder} is an OpenVLA-OFT checkpoint, which is not exported: its chunk needs a graph of its "
            "own and images resized as in TensorFlow; openvla serve runs it for a robot without PyTorch"
        )
    if kind == "lora-adapter":
        raise CheckpointError(
            f"{folder} is a LoRA adapter; give its base as the checkpoint, and this folder as --adapter"
        )
    if kind == "prismatic-native":
        raise CheckpointError(f"{folder} is a {kind} checkpoint; openvla convert-checkpoint converts it")
    if kind != "openvla":
        raise CheckpointError(
            f"{folder} is a vision-language model without actions; only policies are exported"
        )


def _manifest_in(folder: Path) -> Manifest | None:
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder")
    check_present(folder)
    return read_manifest(folder) if manifest_path(folder).is_file() else None


def _agreed(choices: ExportChoices, manifest: Manifest, folder: Path) -> ExportChoices:
    """Return the manifest's choices; raises ``ManifestError`` for a difference from what was asked for."""
    described = folder if choices.adapter is None else choices.adapter
    origin = manifest_path(described)
    manifest.check_adapter(described)
    manifest.check_statistics(described)
    if manifest.base_weights not in (None, digest_of_weights(folder)):
        raise ManifestError(f"{origin}: the adapter was trained on other weights than those of {folder}")
    if choices.robot is not None:
        manifest.check(choices.robot)
    stated = {
        "unnorm_key": manifest.dataset_key,
        "center_crop": manifest.center_crop,
        "prompt_style": manifest.prompt_style,
    }
    for name, value in stated.items():
        if (asked := getattr(choices, name)) not in (None, value):
            raise ManifestError(f"{origin}: {name} is {value!r}, not {asked!r} as requested")
    return replace(
        choices,
        unnorm_key=manifest.dataset_key,
        center_crop=manifest.center_crop,
        prompt_style=manifest.prompt_style,
    )


def _chosen_statistics(folder: Path, choices: ExportChoices) -> dict[str, DatasetStatistics]:
    """Return the statistics of the dataset that was asked for, or of all; raises ``StatisticsError``."""
    files = CheckpointFiles.read(folder, offline=choices.offline)
    known = read_checkpoint_statistics(folder, files.config, choices.adapter)
    if choices.unnorm_key is None:
        return known
    if choices.unnorm_key not in known:
        raise StatisticsError(
            f"no statistics for unnorm_key {choices.unnorm_key!r} in {folder}; "
            f"the choices are {', '.join(known)}"
        )
    return {choices.unnorm_key: known[choices.unnorm_key]}


def _action_space(
    choices: ExportChoices,
    manifest: Manifest | None,
    key: str | None,
    statistics: Mapping[str, DatasetStatistics],
) -> tuple[ActionSpace | None, str]:
    """Return the action space and what states it."""
    if manifest is not None:
        return manifest.action_space, f"the manifest of {manifest.base_model}, robot {manifest.robot}"
    if key is None:
        if choices.robot is not None:
            raise InvalidValueError(
                f"robot {choices.robot.name} was named, but the checkpoint has statistics of "
                f"{', '.join(statistics)}: give --unnorm-key"
            )
        return None, "several datasets"
    if choices.robot is not None:
        check_published(key, statistics, choices.robot, choices.checkpoint)
    convention = convention_table().datasets.get(key)
    if convention is not None:
        return _fitting(convention.space(), statistics[key], f"dataset {key}")
    if choices.robot is not None:
        return _fitting(choices.robot.space(), statistics[key], f"robot {choices.robot.name}")
    return None, f"dataset {key} is not known"


def _fitting(space: ActionSpace, statistics: DatasetStatistics, origin: str) -> tuple[ActionSpace, str]:
    statistics.action.check_space(space, origin)
    return space, origin
