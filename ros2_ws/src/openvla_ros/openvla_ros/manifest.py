"""The checkpoint manifest: what a checkpoint was trained for, and whether it matches a robot.

``openvla_manifest.json`` is stored next to the weights or the adapter. Training writes it; the policy
node checks it against the robot's profile before it loads anything, and refuses to run if they differ.
Of the weights it knows only the hash.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from openvla_ros.errors import CheckpointError, InvalidValueError, ManifestError, StatisticsError
from openvla_ros.integrity.checksums import sha256, verify
from openvla_ros.integrity.validation_errors import validation_lines
from openvla_ros.preprocessing.dataset_statistics import (
    STATISTICS,
    DatasetStatistics,
    parse_norm_stats,
    read_statistics,
)
from openvla_ros.preprocessing.image_transform import ImageTransform
from openvla_ros.preprocessing.prompt import PROMPT_STYLES, PromptStyle
from openvla_ros.profile import RobotProfile
from openvla_ros.values.action import ActionKind, ActionSpace, Frame
from openvla_ros.values.rotation_numbers import RotationConvention

MANIFEST_NAME = "openvla_manifest.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MANIFEST_VERSION = 1

# Without the bounds: those are the robot's own, and enforced by its controller.
_MEANING = ("kind", "names", "units", "frame", "rotation", "gripper_open", "rate_hz")


@dataclass(frozen=True, eq=False)
class Manifest:
    """Everything but the weights that must agree between training and deployment."""

    base_model: str  # hub id or folder name of the model that was fine-tuned
    base_revision: str | None  # commit of that hub repository; None for a local folder
    adapter_sha256: str | None  # of the adapter's weights; None for a full checkpoint
    dataset_key: str  # the unnorm_key of the model's statistics
    statistics: DatasetStatistics
    action_space: ActionSpace
    prompt_style: PromptStyle
    image_transform: ImageTransform
    center_crop: bool  # whether inference cuts the middle 90% first (trained with random crops)
    cameras: tuple[str, ...]  # camera names in the profile, in the model's order
    robot: str  # name of the profile that the demonstrations came from
    base_weights: str | None = None  # digest of the base weights that an adapter was trained on
    # The fields of adapter_config.json that change what the adapter computes; None: not stated (0.1.0).
    adapter_config: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ManifestError(f"cameras {self.cameras}: must be at least one name, without duplicates")
        if self.prompt_style not in PROMPT_STYLES:
            raise ManifestError(
                f"prompt_style {self.prompt_style!r}; the choices are {', '.join(PROMPT_STYLES)}"
            )
        if self.adapter_sha256 is not None and not _is_sha256(self.adapter_sha256):
            raise ManifestError(f"adapter_sha256 {self.adapter_sha256!r} must be 64 lower-case hex digits")
        if self.adapter_config is not None and self.adapter_sha256 is None:
            raise ManifestError("adapter_config is given, but adapter_sha256 is None: there is no adapter")
        try:
            self.statistics.action.check_space(self.action_space, "manifest")
        except StatisticsError as error:
            raise ManifestError(str(error)) from error

    @property
    def rate_hz(self) -> float:
        """Action rate that the model was trained for, Hz."""
        return self.action_space.rate_hz

    def differences(self, profile: RobotProfile) -> list[str]:
        """Return one line for each field in which ``profile`` differs; empty if it matches.

        The robot may have cameras that the checkpoint does not use, and different bounds.
        """
        return differences_from(profile, "checkpoint", self.action_space, self.cameras)

    def check(self, profile: RobotProfile) -> None:
        """Raise ``ManifestError`` with every line of ``differences`` unless the checkpoint matches."""
        lines = self.differences(profile)
        if lines:
            raise ManifestError(
                f"this checkpoint (trained on {self.robot}) does not match robot {profile.name}:\n"
                + "\n".join(f"  {line}" for line in lines)
            )

    def check_adapter(self, folder: str | Path) -> None:
        """Raise ``ManifestError`` unless the adapter in ``folder`` is the one in this manifest."""
        path = Path(folder) / ADAPTER_WEIGHTS
        if self.adapter_sha256 is None:
            if path.exists():
                raise ManifestError(f"adapter_sha256: checkpoint None, but {path} is an adapter")
            return
        if (found := sha256_of_file(path)) != self.adapter_sha256:
            raise ManifestError(f"adapter_sha256: checkpoint {self.adapter_sha256!r}, file {path} {found!r}")

    def check_statistics(self, folder: str | Path) -> None:
        """Raise ``ManifestError`` if ``dataset_statistics.json`` in ``folder`` has other statistics.

        Other programs unnormalise with that file; it may be absent.
        """
        path = Path(folder) / STATISTICS
        if not path.is_file():
            return
        found = read_statistics(path)
        if self.dataset_key not in found:
            raise ManifestError(
                f"{path} has statistics of {', '.join(found)}; {MANIFEST_NAME} is about {self.dataset_key!r}"
            )
        if lines := found[self.dataset_key].differences(self.statistics):
            more = f", and {len(lines) - 1} more" if lines[1:] else ""
            raise ManifestError(
                f"{path} and {MANIFEST_NAME} have different statistics of {self.dataset_key!r}: "
                f"{lines[0]}{more}; restore the one that was changed"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON values."""
        space = self.action_space.describe()
        if self.action_space.kind == "tool_delta":  # as before there were others
            del space["kind"]
        return {
            "version": MANIFEST_VERSION,
            "base_model": self.base_model,
            "base_revision": self.base_revision,
            "base_weights": self.base_weights,
            "adapter_sha256": self.adapter_sha256,
            "adapter_config": None if self.adapter_config is None else dict(self.adapter_config),
            "robot": self.robot,
            "cameras": list(self.cameras),
            "prompt_style": self.prompt_style,
            "action_space": space,
            "image_transform": {**self.image_transform.describe(), "center_crop": self.center_crop},
            "dataset_key": self.dataset_key,
            "statistics": self.statistics.to_json(),
        }


def differences_from(
    profile: RobotProfile, what: str, action_space: ActionSpace, cameras: tuple[str, ...]
) -> list[str]:
    """Return one line for each field in which ``profile`` differs from ``what``, which has the other two."""
    space = profile.space()
    lines = [
        f"action_space.{name}: {what} {mine!r}, robot {profile.name} {theirs!r}"
        for name in _MEANING
        if (mine := getattr(action_space, name)) != (theirs := getattr(space, name))
    ]
    known = tuple(camera.name for camera in profile.cameras)
    if not set(cameras) <= set(known):
        lines.append(f"cameras: {what} {cameras!r}, robot {profile.name} {known!r}")
    return lines


def manifest_path(folder: str | Path) -> Path:
    """Return the path of the manifest of the checkpoint or adapter in ``folder``."""
    return Path(folder) / MANIFEST_NAME


def write_manifest(folder: str | Path, manifest: Manifest) -> Path:
    """Write ``manifest`` into ``folder``, whole or not at all, and return the file."""
    path = manifest_path(folder)
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(json.dumps(manifest.to_json(), indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)
    return path


def read_manifest(folder: str | Path) -> Manifest:
    """Return the manifest of the checkpoint or adapter in ``folder``.

    Raises ``ManifestError`` if it is missing or invalid, naming the file, the key and the value.
    """
    path = manifest_path(folder)
    if path.is_file():
        verify(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ManifestError(f"no manifest: {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ManifestError(f"{path}: not valid JSON: {error}") from error
    return parse_manifest(data, str(path))


def parse_manifest(data: Any, origin: str) -> Manifest:
    """Return the manifest in JSON values ``data``; raises ``ManifestError`` naming ``origin``."""
    try:
        file = _File.model_validate(data, strict=True)
    except ValidationError as error:
        raise ManifestError(
            "\n".join(f"{origin}: {line}" for line in validation_lines(error, "manifest"))
        ) from error
    transform = {name: value for name, value in file.image_transform.items() if name != "center_crop"}
    center_crop = file.image_transform.get("center_crop")
    if not isinstance(center_crop, bool):
        raise ManifestError(
            f"{origin}: image_transform.center_crop is {center_crop!r}; it must be true or false"
        )
    try:
        return Manifest(
            base_model=file.base_model,
            base_revision=file.base_revision,
            adapter_sha256=file.adapter_sha256,
            dataset_key=file.dataset_key,
            statistics=parse_norm_stats({file.dataset_key: file.statistics}, origin)[file.dataset_key],
            action_space=file.action_space.value(),
            prompt_style=file.prompt_style,
            image_transform=ImageTransform.from_description(transform, f"{origin}: image_transform"),
            center_crop=center_crop,
            cameras=tuple(file.cameras),
            robot=file.robot,
            base_weights=file.base_weights,
            adapter_config=file.adapter_config,
        )
    except (CheckpointError, StatisticsError, InvalidValueError) as error:
        message = str(error)
        raise ManifestError(message if message.startswith(origin) else f"{origin}: {message}") from error


def sha256_of_file(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits; raises ``CheckpointError`` if it can't be read."""
    return sha256(Path(path))


def sha256_of_adapter(folder: str | Path) -> str:
    """Return the SHA-256 of the weights of the LoRA adapter in ``folder``."""
    return sha256_of_file(Path(folder) / ADAPTER_WEIGHTS)


class _ActionSpaceFile(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    names: list[str]
    units: list[str]
    frame: Frame
    rotation: RotationConvention
    gripper_open: float
    lower: list[float]
    upper: list[float]
    rate_hz: float
    kind: ActionKind = "tool_delta"  # not stated by versions that knew only deltas

    def value(self) -> ActionSpace:
        data = self.model_dump()
        return ActionSpace(**{**data, "names": tuple(self.names), "units": tuple(self.units)})


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    version: Literal[1]
    base_model: Annotated[str, Field(min_length=1)]
    base_revision: str | None
    base_weights: str | None = None
    adapter_sha256: str | None
    adapter_config: dict[str, Any] | None = None
    robot: Annotated[str, Field(min_length=1)]
    cameras: list[str]
    prompt_style: PromptStyle
    action_space: _ActionSpaceFile
    image_transform: dict[str, Any]
    dataset_key: Annotated[str, Field(min_length=1)]
    statistics: dict[str, Any]


def _is_sha256(value: str) -> bool:
    return len(value) == 64 and set(value) <= set("0123456789abcdef")
