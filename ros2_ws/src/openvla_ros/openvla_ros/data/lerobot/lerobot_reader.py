"""LeRobot datasets, versions 3.0, 2.1 and 2.0, read without LeRobot.

Many tools write and edit this format, so what everybody reads decides: ``action``, ``observation.state``,
``timestamp``, and the words that ``task_index`` points to. The exact copies that this package stores beside
them (float64, nanoseconds) are used only where they agree; where they do not, somebody edited the dataset,
the public numbers are taken, and that is logged once and stands in the provenance.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from openvla_ros.data.episodes.episode_columns import parse_metadata, space_from_json
from openvla_ros.data.episodes.episode_source import stamps_from_seconds
from openvla_ros.data.episodes.frame_instructions import with_instructions
from openvla_ros.data.episodes.observation_state import state_vector
from openvla_ros.data.episodes.video_files import VideoFrames, check_length
from openvla_ros.data.lerobot.action_meaning import (
    FLAGS,
    MOTION_NAMES,
    check_gripper,
    check_joint_targets,
    foreign_space,
    noted_space,
    read_flags,
)
from openvla_ros.data.lerobot.dataset_info import (
    EXACT,
    IMAGE_PREFIX,
    EpisodeEntry,
    Info,
    read_entries,
    read_tasks,
)
from openvla_ros.data.lerobot.parquet_rows import ParquetFrames, matrix, read_rows
from openvla_ros.errors import DatasetError
from openvla_ros.integrity.damage import reading
from openvla_ros.values.action import ActionSpace
from openvla_ros.values.arrays import Bool, Float, Int
from openvla_ros.values.episode import Episode, ImageSequence, Outcome
from openvla_ros.values.geometry import transform_euler_to_matrix

_LOG = logging.getLogger(__name__)
EDITED = "edited_since"  # provenance: what no longer agrees with what this package wrote
_PRIVATE = ("stamp_ns", "action", "intervention", "joint_positions", "pose", "gripper", FLAGS)
_STATE_TOLERANCE = 1e-5  # metres, radians, opening: the state is stored in float32
_SUCCESS = "next.success"


@dataclass(frozen=True, eq=False)
class _Frames:
    """The rows of one episode, by column."""

    rows: pa.Table
    exact: Mapping[str, NDArray[Any]]  # this package's own columns, by their short names
    edited: list[str]  # what the public columns changed

    def __getitem__(self, name: str) -> NDArray[Any]:
        return matrix(self.rows, name)

    def __contains__(self, name: str) -> bool:
        return name in self.rows.column_names


class LerobotSource:
    """The episodes of one LeRobot folder.

    ``space`` describes the actions of a dataset that does not say what they mean. Unless ``any_rate``, it
    must be for the dataset's own rate.
    """

    format = "lerobot"

    def __init__(self, path: Path, *, space: ActionSpace | None = None, any_rate: bool = False) -> None:
        self.path = path
        self.info = Info.read(path)
        self._entries = read_entries(self.info)
        self._space, self._any_rate = space, any_rate
        self._said: set[str] = set()
        if depth := self.info.depth_maps():
            self._say(f"depth is not read; skipped: {', '.join(depth)}")

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Episode:
        """Return episode ``index``; videos are opened when an image is accessed."""
        entry = self._entries[index]
        with reading(f"{entry.data} episode {entry.index}"):
            return self._episode(entry)

    def _episode(self, entry: EpisodeEntry) -> Episode:
        origin = f"{entry.data} episode {entry.index}"
        key = self._action_key
        images = self._images(entry)
        frames = self._frames(entry, key)
        described = self._description(entry)
        space = self._space_of(key, described, origin)
        actions = self._actions(frames, key)
        check_gripper(actions, space, origin)
        if described is None:
            check_joint_targets(actions, space, origin)
        poses, gripper = self._state(frames)
        texts = self._instructions(frames, entry)
        if described is not None and described["instruction"] not in {*texts, ""}:
            frames.edited.append("instruction")
        outcome, intervention = self._flags(frames, described, origin)
        provenance = {
            **({"robot": self.info.robot} if described is None else described["provenance"]),
            "imported_format": self.format,
            "imported_path": origin,
        }
        stamps = self._stamps(frames)
        if frames.edited:
            provenance[EDITED] = ", ".join(frames.edited)
            self._say(
                "edited by another tool after the export; using the dataset's own "
                f"{', '.join(frames.edited)}, not the exact copy"
            )
        episode = Episode(
            id=f"episode_{entry.index:06d}" if described is None else described["id"],
            instruction=texts[0],
            space=space,
            rate_hz=self.info.rate_hz,
            stamps_ns=stamps,
            images=self._ordered(images, described),
            actions=actions,
            joint_positions=frames.exact.get("joint_positions"),
            poses=poses,
            gripper=gripper,
            intervention=intervention,
            outcome=outcome,
            provenance=provenance,
        )
        return with_instructions(episode, texts)

    def _say(self, what: str) -> None:
        """Log ``what``, once for this dataset."""
        if what not in self._said:
            self._said.add(what)
            _LOG.warning("%s: %s", self.path, what)

    @cached_property
    def _tasks(self) -> dict[int, str]:
        return read_tasks(self.info)

    @cached_property
    def _action_key(self) -> str:
        """Return the feature with the actions: LeRobot's name, or openpi's."""
        key = self.info.key("action", "actions")
        if key is None:
            raise DatasetError(
                f"{self.path}: has no feature 'action' or 'actions'; it has {', '.join(self.info.features)}"
            )
        return key

    def _images(self, entry: EpisodeEntry) -> dict[str, ImageSequence]:
        images: dict[str, ImageSequence] = {}
        for key, (path, start) in entry.videos.items():
            check_length(path, start, entry.length, self.info.rate_hz)
            images[key] = VideoFrames(path, start, entry.length, self.info.rate_hz)
        images |= {key: ParquetFrames(self.path, entry, key) for key in self.info.cameras("image")}
        return {key.removeprefix(IMAGE_PREFIX): frames for key, frames in images.items()}

    @staticmethod
    def _ordered(
        images: dict[str, ImageSequence], described: Mapping[str, Any] | None
    ) -> dict[str, ImageSequence]:
        """Return the cameras in the order they were recorded in, those added since at the end."""
        first = [] if described is None else [name for name in described["cameras"] if name in images]
        return {name: images[name] for name in (*first, *(name for name in images if name not in first))}

    def _frames(self, entry: EpisodeEntry, key: str) -> _Frames:
        public = (key, self.info.key("observation.state", "state"), "timestamp", "task_index", _SUCCESS)
        wanted = [name for name in public if name is not None and name in self.info.features]
        private = [name for name in _PRIVATE if f"{EXACT}.{name}" in self.info.features]
        rows = read_rows(entry, [*wanted, *(f"{EXACT}.{name}" for name in private)])
        return _Frames(rows, {name: matrix(rows, f"{EXACT}.{name}") for name in private}, [])

    def _description(self, entry: EpisodeEntry) -> dict[str, Any] | None:
        """Return what this package wrote of the episode; raises ``DatasetError`` if its rate was changed."""
        if entry.description is None:
            return None
        described = parse_metadata(entry.description, str(entry.data))
        if described["rate_hz"] != self.info.rate_hz:
            raise DatasetError(
                f"{self.path}: episode {entry.index} was recorded at {described['rate_hz']:g} Hz; "
                f"meta/info.json says {self.info.rate_hz:g}"
            )
        return described

    def _space_of(self, key: str, described: Mapping[str, Any] | None, origin: str) -> ActionSpace:
        """Return what the actions mean: what the dataset says of itself, else what was asked for."""
        noted = noted_space(self.info, key)
        written = None if described is None else space_from_json(described["action_space"])
        if noted is not None and written is not None and (lines := noted.differences(written)):
            raise DatasetError(
                f"{origin}: meta/info.json (here) and meta/episodes (there) disagree on the actions: "
                f"{'; '.join(lines)}"
            )
        space = written or noted
        if space is None:
            return foreign_space(self.info, key, self._space, any_rate=self._any_rate)
        if space.rate_hz != self.info.rate_hz:
            raise DatasetError(
                f"{self.path}: its actions are for {space.rate_hz:g} Hz; "
                f"meta/info.json says {self.info.rate_hz:g}"
            )
        return space

    def _actions(self, frames: _Frames, key: str) -> Float:
        public, exact = frames[key], frames.exact.get("action")
        if exact is not None:
            if exact.shape == public.shape and np.array_equal(exact.astype(np.float32), public):
                return exact.astype(np.float64)
            frames.edited.append(key)
        actions: Float = public.astype(np.float64)
        return actions

    def _stamps(self, frames: _Frames) -> Int:
        """Return nanoseconds (T,): those recorded, unless the public times are no longer the steps' own."""
        exact, length = frames.exact.get("stamp_ns"), frames.rows.num_rows
        steps = np.arange(length) / self.info.rate_hz
        seconds = frames["timestamp"].astype(np.float64).reshape(-1) if "timestamp" in frames else steps
        if exact is None:
            return stamps_from_seconds(seconds)
        if np.abs(seconds - seconds[0] - steps).max() < 0.25 / self.info.rate_hz:
            stamps: Int = exact.astype(np.int64).reshape(-1)
            return stamps
        frames.edited.append("timestamp")
        return stamps_from_seconds(seconds)

    def _state(self, frames: _Frames) -> tuple[Float | None, Float | None]:
        """Return poses (T, 4, 4) and openings (T,): the recorded ones unless the state says otherwise."""
        exact = _poses(frames.exact.get("pose")), frames.exact.get("gripper")
        key = self.info.key("observation.state", "state")
        names = () if key is None else self.info.names(key)
        if key is None or key not in frames or not set(MOTION_NAMES) <= set(names):
            return exact
        state = frames[key].astype(np.float64)
        if state.ndim != 2 or state.shape[1] != len(names):
            raise DatasetError(
                f"{self.path}: {key} has {state.shape[1:]} numbers a frame for {len(names)} names"
            )
        values = state[:, [names.index(name) for name in MOTION_NAMES]]
        if exact[0] is not None and exact[1] is not None:
            if _same_state(state_vector(exact[0], exact[1]), values):
                return exact
            frames.edited.append(key)
        poses = np.tile(np.eye(4), (len(values), 1, 1))
        poses[:, :3, :3], poses[:, :3, 3] = transform_euler_to_matrix(values[:, 3:6]), values[:, :3]
        return poses, np.clip(values[:, 6], 0.0, 1.0)

    def _instructions(self, frames: _Frames, entry: EpisodeEntry) -> list[str]:
        """Return the words of each frame, empty where there are none."""
        if "task_index" in frames and self._tasks:
            return [self._tasks.get(int(number), "") for number in frames["task_index"].reshape(-1)]
        if len(entry.tasks) > 1:
            tasks = ", ".join(map(repr, entry.tasks))
            raise DatasetError(
                f"{self.path}: episode {entry.index} has several tasks ({tasks}), "
                "and no task_index with a table of tasks says which frame has which"
            )
        return list(entry.tasks or ("",)) * entry.length

    def _flags(
        self, frames: _Frames, described: Mapping[str, Any] | None, origin: str
    ) -> tuple[Outcome, Bool]:
        """Return how the episode ended, and where a person had taken over."""
        if FLAGS in frames.exact:
            outcome, intervention = read_flags(frames.exact[FLAGS], origin)
            if described is not None and described["outcome"] != outcome:
                frames.edited.append("outcome")
            return outcome, intervention
        intervention = frames.exact.get("intervention", np.zeros(frames.rows.num_rows, bool))
        if described is not None:
            return described["outcome"], intervention
        success = _SUCCESS in frames and bool(frames[_SUCCESS].any())
        return "success" if success else "unknown", intervention


def _poses(stored: NDArray[Any] | None) -> Float | None:
    """Return poses (T, 4, 4) from their 12 numbers row by row, or from 16 as version 0.1.0 wrote."""
    if stored is None:
        return None
    poses = np.tile(np.eye(4), (len(stored), 1, 1))
    rows = stored.shape[1] // 4
    poses[:, :rows] = stored.reshape(len(stored), rows, 4)
    return poses


def _same_state(ours: NDArray[Any], theirs: NDArray[Any]) -> bool:
    difference = np.abs(ours.astype(np.float64) - theirs)
    turns = difference[:, 3:6]
    difference[:, 3:6] = np.minimum(turns, np.abs(2 * np.pi - turns))
    return bool((difference < _STATE_TOLERANCE * np.maximum(1.0, np.abs(theirs))).all())
