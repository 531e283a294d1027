"""Observation maps: which flat key of an openpi message is which camera, which state, which words.

A map is a YAML file, one of ``config/observation_maps`` or your own; a profile names the one of its robot.
The same map reads what a client sends and writes what a server is sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from openvla_ros.errors import InvalidValueError, PolicyError, ProfileError
from openvla_ros.integrity.text_file import read_text
from openvla_ros.integrity.validation_errors import validation_lines
from openvla_ros.profile import RobotProfile
from openvla_ros.protocols.array_bytes import image_from_array
from openvla_ros.protocols.state_vectors import (
    FIELD_OF,
    StatePart,
    part_from_numbers,
    part_to_numbers,
    part_width,
)
from openvla_ros.resources import share_path
from openvla_ros.values.arrays import float_array
from openvla_ros.values.observation import Observation

Key = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ObservationMap:
    """The keys of a message, and what stands under them."""

    images: Annotated[dict[Key, str], Field(min_length=1)]  # key → camera of the profile
    state: dict[Key, tuple[StatePart, ...]] = Field(default_factory=dict)  # key → parts, in their order
    instruction: Key = "prompt"
    ignored: tuple[Key, ...] = ()  # keys that a client may send and that nothing here reads

    def __post_init__(self) -> None:
        keys = Counter([*self.images, *self.state, self.instruction, *self.ignored])
        if twice := [key for key, count in keys.items() if count > 1]:
            raise ValueError(f"the key {twice[0]!r} stands for several things")
        parts = Counter(FIELD_OF[part] for parts in self.state.values() for part in parts)
        if twice := [name for name, count in parts.items() if count > 1]:
            raise ValueError(f"{twice[0]} is given by several parts of the state")
        if twice := [camera for camera, count in Counter(self.images.values()).items() if count > 1]:
            raise ValueError(f"camera {twice[0]!r} stands under several keys")

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key that is read."""
        return (*self.images, *self.state, self.instruction)

    def check(self, profile: RobotProfile, origin: str) -> None:
        """Raise ``ProfileError`` naming ``origin`` if ``profile`` lacks a camera of the map."""
        known = [camera.name for camera in profile.cameras]
        for key, camera in self.images.items():
            if camera not in known:
                has = f"robot {profile.name} has {', '.join(known)}"
                raise ProfileError(f"{origin}: images.{key} is camera {camera!r}; {has}")

    def to_observation(self, message: Mapping[str, Any], profile: RobotProfile, stamp_ns: int) -> Observation:
        """Return the observation in ``message``; what is not sent is left out, and the policy asks for it.

        Raises ``InvalidValueError`` for an unknown key, and for values of another shape than the map says.
        """
        if unknown := [key for key in message if key not in (*self.keys, *self.ignored)]:
            raise InvalidValueError(
                f"unknown key {unknown[0][:80]!r}; the observation map has {', '.join(self.keys)}"
            )
        words = message.get(self.instruction)
        if not isinstance(words, str):
            raise InvalidValueError(f"{self.instruction!r} is {repr(words)[:80]}; it must be text")
        images = {
            camera: image_from_array(key, message[key])
            for key, camera in self.images.items()
            if key in message
        }
        if not images:
            raise InvalidValueError(f"the message has no image; expected {', '.join(self.images)}")
        fields: dict[str, Any] = {}
        for key, parts in self.state.items():
            if key in message:
                fields.update(_parts_of(key, message[key], parts, profile))
        return Observation(stamp_ns=stamp_ns, images=images, instruction=words, **fields)

    def to_message(self, observation: Observation, profile: RobotProfile) -> dict[str, Any]:
        """Return ``observation`` under this map's keys; raises ``PolicyError`` if it lacks something."""
        message: dict[str, Any] = {self.instruction: observation.instruction}
        for key, camera in self.images.items():
            if camera not in observation.images:
                raise PolicyError(
                    f"{key!r} needs camera {camera!r}; the observation has {', '.join(observation.images)}"
                )
            message[key] = observation.images[camera]
        for key, parts in self.state.items():
            message[key] = np.concatenate([part_to_numbers(p, observation, profile) for p in parts])
        return message


def _parts_of(key: str, value: Any, parts: tuple[StatePart, ...], profile: RobotProfile) -> dict[str, Any]:
    widths = [part_width(part, profile) for part in parts]
    try:
        numbers = np.atleast_1d(float_array(key, value, (None,) if np.ndim(value) else ()))
    except (TypeError, ValueError) as error:
        raise InvalidValueError(f"{key!r} cannot be read: {error}") from error
    if len(numbers) != sum(widths):
        wanted = ", ".join(f"{part} ({width})" for part, width in zip(parts, widths, strict=True))
        raise InvalidValueError(f"{key!r} has {len(numbers)} numbers; the observation map says {wanted}")
    pieces = np.split(numbers, np.cumsum(widths)[:-1])
    return dict(part_from_numbers(part, piece, profile) for part, piece in zip(parts, pieces, strict=True))


_ADAPTER = TypeAdapter(ObservationMap)


def available_maps() -> list[str]:
    """Return the names of the package's own observation maps."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def load_observation_map(name_or_path: str | Path, profile: RobotProfile) -> ObservationMap:
    """Return the observation map called ``name_or_path``, or the one in that YAML file, for ``profile``.

    Raises ``ProfileError`` if there is none, if it is wrong, or if the robot lacks one of its cameras.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        path = _folder() / f"{name_or_path}.yaml"
    if not path.is_file():
        raise ProfileError(
            f"no observation map {str(name_or_path)!r}; the maps are {', '.join(available_maps())}, "
            "or give the path of a .yaml file"
        )
    try:
        data = yaml.safe_load(read_text(path, ProfileError))
    except yaml.YAMLError as error:
        raise ProfileError(f"{path}: not valid YAML: {error}") from error
    return parse_observation_map(data, profile, str(path))


def parse_observation_map(data: Any, profile: RobotProfile, origin: str) -> ObservationMap:
    """Return the observation map in plain values ``data``, for ``profile``.

    Raises ``ProfileError`` naming ``origin`` if it is wrong, or if the robot lacks one of its cameras.
    """
    try:
        found = _ADAPTER.validate_python(data)
    except ValidationError as error:
        lines = validation_lines(error, "observation map")
        raise ProfileError("\n".join(f"{origin}: {line}" for line in lines)) from error
    found.check(profile, origin)
    return found


def _folder() -> Path:
    return share_path() / "config" / "observation_maps"
