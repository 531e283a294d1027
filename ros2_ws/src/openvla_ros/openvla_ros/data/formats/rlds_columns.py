"""The columns of one RLDS record, selected and converted: what the table of conventions is made of.

A selector is the path of a feature inside the steps with an optional slice, or ``zeros(n)``; a list of
selectors is joined. Knows nothing of datasets: which columns mean what is in ``rlds_conventions.yaml``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as validated

from openvla_ros.data.formats.tfds_features import Record
from openvla_ros.errors import DatasetError
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import (
    transform_euler_to_matrix,
    transform_matrix_to_euler,
    transform_quaternion_to_matrix,
    transform_rotvec_to_matrix,
)

RotationColumns = Literal["euler_xyz", "euler_zxy", "rotation_vector", "quaternion_xyzw"]
Selector = str | tuple[str, ...]

STRICT = ConfigDict(extra="forbid")
_SELECTOR = re.compile(r"^(?P<path>[^\[\]()]+?)(?:\[(?P<start>\d+):(?P<stop>\d+)\])?$")
_ZEROS = re.compile(r"^zeros\((\d+)\)$")
_HOMOGENEOUS = 1e-4  # how far the last row of a float32 pose may be from 0, 0, 0, 1


@validated(frozen=True, config=STRICT)
class GripperColumns:
    """Where a gripper's values are and how to read them; exactly one of the three kinds."""

    from_: Selector | None = None
    open: float | None = None
    closed: float | None = None
    relative: bool = False
    constant: float | None = None
    settle: bool = False


@validated(frozen=True, config=STRICT)
class StateColumns:
    """Where the robot's state is; everything may be missing. ``pose`` is a whole 4x4 matrix."""

    position: Selector | None = None
    rotation: Selector | None = None
    rotation_is: RotationColumns = "euler_xyz"
    rotation_offset: tuple[float, float, float] = (0.0, 0.0, 0.0)  # roll, pitch, yaw of the zero rotation
    pose: Selector | None = None
    joints: Selector | None = None
    gripper: GripperColumns | None = None


def paths_of(selector: Selector | None) -> list[str]:
    """Return the features that ``selector`` reads, as paths inside the steps."""
    if selector is None:
        return []
    selectors = [selector] if isinstance(selector, str) else list(selector)
    matches = [_SELECTOR.match(one) for one in selectors]
    return [match["path"] for match in matches if match is not None]


@dataclass(frozen=True)
class StepColumns:
    """Reads selectors from one record."""

    record: Record

    @property
    def length(self) -> int:
        """The number of steps."""
        return len(self.record.array("steps/is_first"))

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
            return np.zeros((self.length, int(zeros[1])))
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

    def rotations(self, selector: Selector, kind: RotationColumns) -> Float:
        """Return rotation matrices (T, 3, 3); quaternions need not have length 1."""
        angles = self.columns(selector, 4 if kind == "quaternion_xyzw" else 3)
        match kind:
            case "euler_xyz":
                return transform_euler_to_matrix(angles)
            case "euler_zxy":  # about the fixed z, then x, then y: R = Ry Rx Rz
                z, x, y = np.moveaxis(angles, -1, 0)
                zero = np.zeros_like(z)
                first = transform_euler_to_matrix(np.stack([zero, zero, z], axis=-1))
                second = transform_euler_to_matrix(np.stack([x, zero, zero], axis=-1))
                third = transform_euler_to_matrix(np.stack([zero, y, zero], axis=-1))
                turned: Float = third @ second @ first
                return turned
            case "rotation_vector":
                return transform_rotvec_to_matrix(angles)
            case "quaternion_xyzw":
                return transform_quaternion_to_matrix(angles)

    def turns(self, selector: Selector, kind: RotationColumns) -> Float:
        """Return rotations (T, 3) as rotation vectors if they are stored so, else as euler_xyz."""
        if kind in ("euler_xyz", "rotation_vector"):
            return self.columns(selector, 3)
        return transform_matrix_to_euler(self.rotations(selector, kind))

    def gripper(self, columns: GripperColumns) -> Float:
        """Return the opening (T,), 1 open .. 0 closed."""
        if columns.from_ is None:
            return np.full(self.length, columns.constant, dtype=np.float64)
        values = self.columns(columns.from_, 1)[:, 0]
        if columns.relative:
            return absolute_from_relative(values)
        if columns.open is None or columns.closed is None:
            raise DatasetError(f"gripper {columns.from_!r} needs either relative or both open and closed")
        opening = np.clip((values - columns.closed) / (columns.open - columns.closed), 0.0, 1.0)
        return settle(opening) if columns.settle else opening

    def poses(self, state: StateColumns) -> NDArray[np.float64] | None:
        """Return the tool's poses (T, 4, 4) in the base frame, or None where the dataset has none."""
        if state.pose is not None:
            return self._matrices(state.pose)
        if state.position is None or state.rotation is None:
            return None
        position = self.columns(state.position, 3)
        rotation = self.rotations(state.rotation, state.rotation_is)
        poses = np.tile(np.eye(4), (len(position), 1, 1))
        poses[:, :3, :3] = rotation @ transform_euler_to_matrix(state.rotation_offset)
        poses[:, :3, 3] = position
        return poses

    def _matrices(self, selector: Selector) -> Float:
        """Return poses stored as 16 numbers, row by row or column by column: the last row shows which."""
        matrices = self.columns(selector, 16).reshape(-1, 4, 4)
        last = np.array([0.0, 0.0, 0.0, 1.0])
        by_rows = bool(np.abs(matrices[:, 3, :] - last).max() < _HOMOGENEOUS)
        by_columns = bool(np.abs(matrices[:, :, 3] - last).max() < _HOMOGENEOUS)
        if by_rows == by_columns:
            raise DatasetError(
                f"{self.record.origin}: {selector} are no poses: neither the last row nor the last column of "
                "each 4x4 matrix alone is 0, 0, 0, 1"
            )
        poses = matrices if by_rows else np.swapaxes(matrices, 1, 2)
        left, _, right = np.linalg.svd(poses[:, :3, :3])  # float32 rotations, made exact
        exact = np.tile(np.eye(4), (len(poses), 1, 1))
        exact[:, :3, :3], exact[:, :3, 3] = left @ right, poses[:, :3, 3]
        return exact

    def instructions(self, path: str) -> list[str]:
        """Return each step's words: a text, or a row of code points ended by 0."""
        full = f"steps/{path}"
        if self.record.is_text(full):
            return [text.strip() for text in self.record.texts(full)]
        return ["".join(map(chr, _until_zero(row))).strip() for row in self.record.array(full)]


def _until_zero(codes: NDArray[np.int64]) -> list[int]:
    ends = np.flatnonzero(codes == 0)
    return [int(code) for code in codes[: ends[0] if len(ends) else None]]


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
