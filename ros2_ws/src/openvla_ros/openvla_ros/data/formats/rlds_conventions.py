"""Conventions of public RLDS datasets: a table, and the code that applies it.

``rlds_conventions.yaml`` says for each dataset which columns are images, motion, gripper and state, and
in which sign, frame and unit they are. Every import converts to this package's conventions: the gripper
is 1 open .. 0 closed, poses are those of the tool in the base frame, motions are relative to the previous
command. Actions stay the commanded ones; where OpenVLA trained on differences of measured poses instead
(BridgeData V2), ``Episode.with_measured_actions`` gives those.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated

from openvla_ros.data.episodes.episode_source import stamps_from_seconds
from openvla_ros.data.episodes.frame_instructions import with_instructions
from openvla_ros.data.formats.rlds_columns import (
    STRICT,
    GripperColumns,
    RotationColumns,
    Selector,
    StateColumns,
    StepColumns,
    paths_of,
)
from openvla_ros.data.formats.rlds_metadata import check_stated_rate, metadata
from openvla_ros.data.formats.tfds_features import Record
from openvla_ros.errors import DatasetError
from openvla_ros.integrity.validation_errors import validation_lines
from openvla_ros.values.action import ActionSpace, Frame
from openvla_ros.values.arrays import Float
from openvla_ros.values.episode import Episode, Outcome, pose_deltas
from openvla_ros.values.geometry import transform_matrix_to_rotvec, transform_rotvec_to_matrix


@validated(frozen=True, config=STRICT)
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
    absolute: bool = False  # targets, not motions
    rotation_added: bool = False  # to the numbers of the state's rotation vector, not composed with it
    success: str | None = None  # where it says whether the episode succeeded, if not in the reward
    also: tuple[str, ...] = ()
    state: StateColumns = field(default_factory=StateColumns)

    def space(self) -> ActionSpace:
        """Return the action space that imported episodes have."""
        move, turn = self.bounds
        return ActionSpace(
            names=("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
            units=(*(self.units[0],) * 3, *(self.units[1],) * 3, "1"),
            frame=self.frame,
            rotation="rotation_vector" if self.rotation_is == "rotation_vector" else "euler_xyz",
            gripper_open=1.0,
            lower=np.array([-move] * 3 + [-turn] * 3 + [0.0]),
            upper=np.array([move] * 3 + [turn] * 3 + [1.0]),
            rate_hz=self.rate_hz,
        )

    def missing(self, features: Container[str]) -> list[str]:
        """Return the columns that this entry reads and ``features`` lacks."""
        state = self.state
        selectors = [self.translation, self.rotation, self.gripper.from_]
        selectors += [state.position, state.rotation, state.pose, state.joints]
        selectors += [None if state.gripper is None else state.gripper.from_]
        paths = [self.instruction, *self.images.values()]
        paths += [path for selector in selectors for path in paths_of(selector)]
        return sorted({path for path in paths if f"steps/{path}" not in features})

    def episode(self, episode_id: str, record: Record, provenance: Mapping[str, str]) -> Episode:
        """Return ``record`` as an episode in this package's conventions.

        Of several instructions in one episode the most frequent is kept, with its steps. Raises
        ``DatasetError`` naming the column that is missing or has the wrong width, or another rate that the
        dataset states of itself.
        """
        found = metadata(record)
        check_stated_rate(record, found, self.rate_hz, self.name)
        table = StepColumns(record)
        motion = self._motion(table)
        actions = np.concatenate([motion, table.gripper(self.gripper)[:, None]], axis=1)
        skipped = max(self.skip_first, int(self.absolute))  # no target comes before the first one
        keep = slice(skipped, None)
        length = len(actions) - skipped
        if length < 1:
            raise DatasetError(f"{record.origin}: has {len(actions)} steps, of which {skipped} are skipped")
        state = self.state
        poses = table.poses(state)
        joints = None if state.joints is None else table.columns(state.joints, None)
        gripper = None if state.gripper is None else table.gripper(state.gripper)
        episode = Episode(
            id=episode_id,
            instruction="",
            space=self.space(),
            rate_hz=self.rate_hz,
            stamps_ns=stamps_from_seconds(np.arange(length) / self.rate_hz),
            images={
                camera: record.images(f"steps/{path}", camera, keep) for camera, path in self.images.items()
            },
            actions=actions[keep],
            joint_positions=None if joints is None else joints[keep],
            poses=None if poses is None else poses[keep],
            gripper=None if gripper is None else gripper[keep],
            outcome=self._outcome(record),
            provenance={**found, "dataset": self.name, **provenance},
        )
        return with_instructions(episode, table.instructions(self.instruction)[keep])

    def _motion(self, table: StepColumns) -> Float:
        """Return the motions (T, 6) in the entry's units; row 0 is zero where targets are stored."""
        move = table.columns(self.translation, 3)
        if self.absolute:
            targets = np.tile(np.eye(4), (len(move), 1, 1))
            targets[:, :3, :3] = table.rotations(self.rotation, self.rotation_is)
            targets[:, :3, 3] = move
            return np.concatenate([np.zeros((1, 6)), pose_deltas(targets, self.space())])
        if self.rotation_added and self.state.rotation is not None:
            before = table.columns(self.state.rotation, 3)
            after = transform_rotvec_to_matrix(before + table.columns(self.rotation, 3))
            turned = after @ np.swapaxes(transform_rotvec_to_matrix(before), 1, 2)
            return np.concatenate([move, transform_matrix_to_rotvec(turned)], axis=1)
        return np.concatenate([move, table.turns(self.rotation, self.rotation_is)], axis=1)

    def _outcome(self, record: Record) -> Outcome:
        """Return the outcome as recorded, else "success" if the last step has a reward, else "unknown"."""
        if self.success is not None and self.success in record:
            succeeded = float(np.asarray(record.array(self.success)).reshape(-1)[-1]) > 0.5
            return "success" if succeeded else "failure"
        rewarded = "steps/reward" in record and float(record.array("steps/reward")[-1]) > 0.0
        return "success" if rewarded else "unknown"


@dataclass(frozen=True)
class ConventionTable:
    """All entries, the datasets that cannot be read, and the named mixtures with their weights."""

    datasets: Mapping[str, Convention]
    refused: Mapping[str, str]  # name → the reason
    mixtures: Mapping[str, Mapping[str, float]]

    def called(self, name: str) -> list[Convention]:
        """Return the entry of dataset ``name``, or those for which it is another name."""
        if name in self.datasets:
            return [self.datasets[name]]
        return [entry for entry in self.datasets.values() if name in entry.also]


def parse_conventions(text: str, source: str) -> ConventionTable:
    """Return the table written in YAML ``text``; raises ``DatasetError`` naming entry, key and value."""
    data = yaml.safe_load(text)
    adapter = TypeAdapter(Convention)
    found: dict[str, Convention] = {}
    for name, entry in data["datasets"].items():
        values = {**data["defaults"], **entry, "name": name}
        try:
            found[name] = adapter.validate_python(_rename(values))
        except ValidationError as error:
            wrong = "; ".join(f"{name}.{line}" for line in validation_lines(error, "entry"))
            raise DatasetError(f"{source}: {wrong}") from error
    refused = {name: " ".join(reason.split()) for name, reason in data.get("refused", {}).items()}
    mixtures = {
        name: {key: float(weight) for key, weight in weights.items() if weight > 0}
        for name, weights in data["mixtures"].items()
    }
    unknown = sorted({key for weights in mixtures.values() for key in weights} - set(found) - set(refused))
    if unknown:
        raise DatasetError(f"{source}: mixtures name datasets without an entry: {unknown}")
    return ConventionTable(found, refused, mixtures)


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


def find_convention(name: str, features: Container[str] | None = None) -> Convention:
    """Return the entry of dataset ``name``, where several have that name the one that ``features`` fit.

    Raises ``DatasetError`` listing the known ones, saying why the dataset is refused, or what each of several
    entries misses.
    """
    table = convention_table()
    if name in table.refused:
        raise DatasetError(f"RLDS dataset {name!r} cannot be read: {table.refused[name]}")
    entries = table.called(name)
    if not entries:
        also = {other for entry in table.datasets.values() for other in entry.also}
        known = ", ".join(sorted(also | set(table.datasets)))
        raise DatasetError(f"no convention for RLDS dataset {name!r}; choose one: {known}")
    if len(entries) == 1 or features is None:
        return entries[0]
    missing = {entry.name: entry.missing(features) for entry in entries}
    for entry in entries:
        if not missing[entry.name]:
            return entry
    lacking = "; ".join(f"for {key} it lacks {', '.join(paths)}" for key, paths in missing.items())
    raise DatasetError(f"RLDS dataset {name!r}: {lacking}")
