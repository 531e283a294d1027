"""Conventions of public RLDS datasets: a table, and the code that applies it.

``rlds_conventions.yaml`` says for each dataset which columns are images, motion, gripper and state, and
in which sign, frame and unit they are. Every import converts to this package's conventions: the gripper
is 1 open .. 0 closed, poses are those of the tool in the base frame. Actions stay the commanded ones;
where OpenVLA trained on differences of measured poses instead (BridgeData V2),
``Episode.with_measured_actions`` gives those.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated

from openvla_ros.data.episodes.encoded_images import EncodedFrames
from openvla_ros.data.episodes.episode_source import stamps_from_seconds
from openvla_ros.data.formats.tfds_features import Record
from openvla_ros.errors import DatasetError
from openvla_ros.integrity.validation_errors import validation_lines
from openvla_ros.values.action import ActionSpace, Frame, RotationConvention
from openvla_ros.values.arrays import Float
from openvla_ros.values.episode import Episode, Outcome
from openvla_ros.values.geometry import (
    transform_euler_to_matrix,
    transform_matrix_to_euler,
    transform_quaternion_to_matrix,
    transform_rotvec_to_matrix,
)

RotationColumns = Literal["euler_xyz", "rotation_vector", "quaternion_xyzw"]
Selector = str | tuple[str, ...]

_STRICT = ConfigDict(extra="forbid")
_SELECTOR = re.compile(r"^(?P<path>[^\[\]()]+?)(?:\[(?P<start>\d+):(?P<stop>\d+)\])?$")
_ZEROS = re.compile(r"^zeros\((\d+)\)$")


@validated(frozen=True, config=_STRICT)
class GripperColumns:
    """Where a gripper's values are and how to read them; exactly one of the three kinds."""

    from_: Selector | None = None
    open: float | None = None
    closed: float | None = None
    relative: bool = False
    constant: float | None = None
    settle: bool = False


@validated(frozen=True, config=_STRICT)
class StateColumns:
    """Where the robot's state is; everything may be missing."""

    position: Selector | None = None
    rotation: Selector | None = None
    rotation_is: RotationColumns = "euler_xyz"
    rotation_offset: tuple[float, float, float] = (0.0, 0.0, 0.0)  # roll, pitch, yaw of the zero rotation
    joints: Selector | None = None
    gripper: GripperColumns | None = None


@validated(frozen=True, config=_STRICT)
class Convention:
    """One dataset's entry in the table."""

    name: str
    rate_hz: float
    instruction: str
    images: dict[str, str]
    translation: Selector
    rotation: Selector
    gripper: GripperColumns
    frame: Frame
    rotation_is: RotationColumns
    units: tuple[str, str]
    bounds: tuple[float, float]
    skip_first: int
    also: tuple[str, ...] = ()
    state: StateColumns = field(default_factory=StateColumns)

    def space(self) -> ActionSpace:
        """Return the action space that imported episodes have."""
        as_is: dict[str, RotationConvention] = {"rotation_vector": "rotation_vector"}
        move, turn = self.bounds
        return ActionSpace(
            names=("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
            units=(*(self.units[0],) * 3, *(self.units[1],) * 3, "1"),
            frame=self.frame,
            rotation=as_is.get(self.rotation_is, "euler_xyz"),
            gripper_open=1.0,
            lower=np.array([-move] * 3 + [-turn] * 3 + [0.0]),
            upper=np.array([move] * 3 + [turn] * 3 + [1.0]),
            rate_hz=self.rate_hz,
        )

    def episode(self, episode_id: str, record: Record, provenance: Mapping[str, str]) -> Episode:
        """Return ``record`` as an episode in this package's conventions.

        Raises ``DatasetError`` naming the column that is missing or has the wrong width.
        """
        table = _Table(record)
        actions = np.concatenate(
            [
                table.columns(self.translation, 3),
                self._turns(table),
                table.gripper(self.gripper)[:, None],
            ],
            axis=1,
        )
        keep = slice(self.skip_first, None)
        length = len(actions) - self.skip_first
        if length < 1:
            raise DatasetError(
                f"{record.origin}: has {len(actions)} steps, of which {self.skip_first} are skipped"
            )
        state = self.state
        poses = table.poses(state)
        joints = None if state.joints is None else table.columns(state.joints, None)
        gripper = None if state.gripper is None else table.gripper(state.gripper)
        return Episode(
            id=episode_id,
            instruction=table.instruction(self.instruction),
            space=self.space(),
            rate_hz=self.rate_hz,
            stamps_ns=stamps_from_seconds(np.arange(length) / self.rate_hz),
            images={
                camera: EncodedFrames(record.blobs(f"steps/{path}")[keep], f"{record.origin} {camera}")
                for camera, path in self.images.items()
            },
            actions=actions[keep],
            joint_positions=None if joints is None else joints[keep],
            poses=None if poses is None else poses[keep],
            gripper=None if gripper is None else gripper[keep],
            outcome=table.outcome(),
            provenance={"dataset": self.name, **table.metadata(), **provenance},
        )

    def _turns(self, table: _Table) -> Float:
        if self.rotation_is != "quaternion_xyzw":
            return table.columns(self.rotation, 3)
        return transform_matrix_to_euler(transform_quaternion_to_matrix(table.columns(self.rotation, 4)))


@dataclass(frozen=True)
class _Table:
    """Reads selectors from one record."""

    record: Record

    def columns(self, selector: Selector, width: int | None) -> Float:
        """Return the selected columns (T, width) as float64."""
        selectors = [selector] if isinstance(selector, str) else list(selector)
        parts = [self._read(one) for one in selectors]
        joined = np.concatenate(parts, axis=1)
        if width is not None and joined.shape[1] != width:
            raise DatasetError(f"{self.record.origin}: {selector} has {joined.shape[1]} columns, not {width}")
        return joined

    def _read(self, selector: str) -> Float:
        if zeros := _ZEROS.match(selector):
            return np.zeros((self._length(), int(zeros[1])))
        match = _SELECTOR.match(selector)
        if match is None:
            raise DatasetError(f"selector {selector!r} is not a path, path[from:to] or zeros(n)")
        array = self.record.array(f"steps/{match['path']}").astype(np.float64)
        array = array.reshape(len(array), -1)
        if match["start"] is None:
            return array
        stop = int(match["stop"])
        if stop > array.shape[1]:
            raise DatasetError(f"{self.record.origin}: {selector} exceeds the {array.shape[1]} columns")
        return array[:, int(match["start"]) : stop]

    def _length(self) -> int:
        return len(self.record.array("steps/is_first"))

    def gripper(self, columns: GripperColumns) -> Float:
        """Return the opening (T,), 1 open .. 0 closed."""
        if columns.from_ is None:
            return np.full(self._length(), columns.constant, dtype=np.float64)
        values = self.columns(columns.from_, 1)[:, 0]
        if columns.relative:
            return absolute_from_relative(values)
        if columns.open is None or columns.closed is None:
            raise DatasetError(f"gripper {columns.from_!r} needs either relative or both open and closed")
        opening = np.clip((values - columns.closed) / (columns.open - columns.closed), 0.0, 1.0)
        return settle(opening) if columns.settle else opening

    def poses(self, state: StateColumns) -> NDArray[np.float64] | None:
        """Return the tool's poses (T, 4, 4) in the base frame, or None where the dataset has none."""
        if state.position is None or state.rotation is None:
            return None
        position = self.columns(state.position, 3)
        width = 4 if state.rotation_is == "quaternion_xyzw" else 3
        angles = self.columns(state.rotation, width)
        match state.rotation_is:
            case "euler_xyz":
                rotation = transform_euler_to_matrix(angles)
            case "rotation_vector":
                rotation = transform_rotvec_to_matrix(angles)
            case "quaternion_xyzw":
                rotation = transform_quaternion_to_matrix(angles)
        poses = np.tile(np.eye(4), (len(position), 1, 1))
        poses[:, :3, :3] = rotation @ transform_euler_to_matrix(state.rotation_offset)
        poses[:, :3, 3] = position
        return poses

    def instruction(self, path: str) -> str:
        """Return the instruction of the first step: a text, or a row of code points ended by 0."""
        full = f"steps/{path}"
        if self.record.is_text(full):
            return self.record.text(full).strip()
        codes = self.record.array(full)[0]
        return "".join(chr(c) for c in codes[: int(np.argmin(codes)) if 0 in codes else None]).strip()

    def outcome(self) -> Outcome:
        """Return "success" if the last step has a reward; without rewards the outcome is unknown."""
        rewarded = "steps/reward" in self.record and float(self.record.array("steps/reward")[-1]) > 0.0
        return "success" if rewarded else "unknown"

    def metadata(self) -> dict[str, str]:
        """Return the record's metadata about its origin; bytes that are not UTF-8 are escaped."""
        path = "episode_metadata/file_path"
        found = self.record.blobs(path) if path in self.record else []
        return {"file_path": found[0].decode("utf-8", errors="backslashreplace")} if found else {}


def absolute_from_relative(values: Float) -> Float:
    """Return openings (T,) from relative commands: above 0.1 closes, below -0.1 opens, else unchanged.

    Before the first change the gripper is in the opposite state; without any change it is open.
    """
    change = np.where(values < -0.1, 1, np.where(values > 0.1, -1, 0))
    first = change[np.argmax(change != 0)]
    start = -first if first else 1
    last = np.maximum.accumulate(np.where(change != 0, np.arange(len(change)), -1))
    state = np.where(last < 0, start, change[np.maximum(last, 0)])
    opening: Float = state / 2.0 + 0.5
    return opening


def settle(opening: Float) -> Float:
    """Return openings (T,) where a value between 0.05 and 0.95 becomes the next settled one, 0 or 1.

    A run of such values at the end keeps the last of them.
    """
    settled = (opening > 0.95) | (opening < 0.05)
    following = np.where(settled, np.arange(len(opening)), len(opening))
    following = np.minimum.accumulate(following[::-1])[::-1]
    ends = np.append((opening > 0.95).astype(np.float64), opening[-1])
    result: Float = ends[following]
    return result


@dataclass(frozen=True)
class ConventionTable:
    """All entries, and the named mixtures with their weights."""

    datasets: Mapping[str, Convention]  # by name and by other names
    mixtures: Mapping[str, Mapping[str, float]]


def parse_conventions(text: str, source: str) -> ConventionTable:
    """Return the table written in YAML ``text``; raises ``DatasetError`` naming entry, key and value."""
    data = yaml.safe_load(text)
    adapter = TypeAdapter(Convention)
    found: dict[str, Convention] = {}
    for name, entry in data["datasets"].items():
        values = {**data["defaults"], **entry, "name": name}
        try:
            convention = adapter.validate_python(_rename(values))
        except ValidationError as error:
            wrong = "; ".join(f"{name}.{line}" for line in validation_lines(error, "entry"))
            raise DatasetError(f"{source}: {wrong}") from error
        for key in (name, *convention.also):
            found[key] = convention
    mixtures = {
        name: {key: float(weight) for key, weight in weights.items() if weight > 0}
        for name, weights in data["mixtures"].items()
    }
    unknown = sorted({key for weights in mixtures.values() for key in weights} - set(found))
    if unknown:
        raise DatasetError(f"{source}: mixtures name datasets without an entry: {unknown}")
    return ConventionTable(found, mixtures)


def _rename(values: Any) -> Any:
    """Return ``values`` with the key ``from`` as ``from_`` at every depth: the former is a Python word."""
    if isinstance(values, dict):
        return {("from_" if key == "from" else key): _rename(value) for key, value in values.items()}
    return values


@lru_cache(maxsize=1)
def convention_table() -> ConventionTable:
    """Return the table that is part of the package."""
    resource = files("openvla_ros.data.formats").joinpath("rlds_conventions.yaml")
    return parse_conventions(resource.read_text(encoding="utf-8"), "rlds_conventions.yaml")


def find_convention(name: str) -> Convention:
    """Return the entry of dataset ``name``; raises ``DatasetError`` listing the known ones."""
    datasets = convention_table().datasets
    if name not in datasets:
        raise DatasetError(f"no convention for RLDS dataset {name!r}; choose one: {', '.join(datasets)}")
    return datasets[name]
