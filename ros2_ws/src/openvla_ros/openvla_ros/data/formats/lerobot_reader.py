"""LeRobot datasets, versions 3.0 and 2.1, read without LeRobot.

``meta/info.json`` names the features and the paths of parquet files (numbers) and videos. In 3.0
many episodes share a file and ``meta/episodes`` says where each one is; in 2.1 every episode has its
own files. Datasets written by this package also contain the exact numbers; in others the actions must
be named x, y, z, roll, pitch, yaw, gripper, or be described by a robot profile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from openvla_ros.data.episodes.encoded_images import EncodedFrames
from openvla_ros.data.episodes.episode_columns import COLUMNS, build_episode, parse_metadata
from openvla_ros.data.episodes.episode_source import stamps_from_seconds
from openvla_ros.data.episodes.video_files import VideoFrames, check_length
from openvla_ros.errors import DatasetError
from openvla_ros.integrity.checksums import say_unverified, verify
from openvla_ros.integrity.damage import reading
from openvla_ros.values.action import ActionSpace
from openvla_ros.values.arrays import Image
from openvla_ros.values.episode import Episode, ImageSequence
from openvla_ros.values.geometry import transform_euler_to_matrix

EXACT = "openvla_ros"  # prefix of the exact columns, and name of the description in the episodes' table
VERSIONS = ("v3.0", "v2.1")
MOTION_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
IMAGE_PREFIX = "observation.images."


@dataclass(frozen=True)
class EpisodeEntry:
    """The location of one episode."""

    index: int
    length: int
    instruction: str
    data: Path
    videos: Mapping[str, tuple[Path, float]]  # feature → file, seconds at which the episode begins
    description: str | None = None  # JSON of ``episode_metadata``, if this package wrote it


@dataclass(frozen=True)
class Info:
    """``meta/info.json``."""

    path: Path
    version: str
    rate_hz: float
    features: Mapping[str, Mapping[str, Any]]
    data_path: str
    video_path: str | None
    chunk_size: int
    episodes: int | None  # in all, as are the frames; None where the file does not say
    frames: int | None
    robot: str = field(default="")

    @classmethod
    def read(cls, folder: Path) -> Info:
        """Read the file; ``DatasetError`` names what is missing or the supported versions."""
        path = folder / "meta" / "info.json"
        if not verify(path):
            say_unverified(str(folder), "it has no SHA256SUMS, and videos contain no checksum")
        with reading(path):
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["codebase_version"] not in VERSIONS:
                raise DatasetError(f"{path}: version {values['codebase_version']!r}; supported: {VERSIONS}")
            return cls(
                path=folder,
                version=values["codebase_version"],
                rate_hz=float(values["fps"]),
                features=values["features"],
                data_path=values["data_path"],
                video_path=values.get("video_path"),
                chunk_size=int(values.get("chunks_size", 1000)),
                robot=str(values.get("robot_type") or ""),
                episodes=_count(values, "total_episodes", path),
                frames=_count(values, "total_frames", path),
            )

    def keys(self, dtype: str) -> list[str]:
        """Return the features of ``dtype``."""
        return [key for key, feature in self.features.items() if feature["dtype"] == dtype]

    def names(self, key: str) -> tuple[str, ...]:
        """Return the names of a feature's numbers, flattened; empty where there are none."""
        names = self.features.get(key, {}).get("names") or ()
        if isinstance(names, Mapping):
            names = [name for group in names.values() for name in group]
        return tuple(str(name) for name in names)


def _count(values: Mapping[str, Any], name: str, path: Path) -> int | None:
    value = values.get(name)
    if value is not None and (type(value) is not int or value < 0):
        raise DatasetError(f"{path}: {name} is {value!r}; it must be a whole number, 0 or more")
    return value


def read_entries(info: Info) -> list[EpisodeEntry]:
    """Return where every episode is stored, in order; raises ``DatasetError`` if their number is wrong."""
    entries = _entries_v3(info) if info.version == "v3.0" else _entries_v21(info)
    numbers = [entry.index for entry in entries]
    announced = len(numbers) if info.episodes is None else info.episodes
    if not numbers or len(numbers) != announced or numbers != list(range(len(numbers))):
        raise DatasetError(
            f"{info.path}: meta/episodes lists {len(numbers)} episodes ({_some(numbers)}); "
            f"meta/info.json says {info.episodes}, numbered from 0"
        )
    frames = sum(entry.length for entry in entries)
    if any(entry.length < 1 for entry in entries) or info.frames not in (None, frames):
        raise DatasetError(
            f"{info.path}: the episodes in meta/episodes have {frames} frames; "
            f"meta/info.json says {info.frames}"
        )
    return entries


def _some(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (" ..." if len(numbers) > 5 else "") if numbers else "none"


def _entries_v3(info: Info) -> list[EpisodeEntry]:
    rows: list[dict[str, Any]] = []
    for path in sorted((info.path / "meta" / "episodes").glob("*/*.parquet")):
        verify(path)
        with reading(path):
            schema = pq.read_schema(path)
            wanted = [name for name in schema.names if not name.startswith("stats/")]
            rows += pq.read_table(path, columns=wanted, page_checksum_verification=True).to_pylist()
    return [_entry_v3(info, row) for row in sorted(rows, key=lambda row: int(row["episode_index"]))]


def _entry_v3(info: Info, row: Mapping[str, Any]) -> EpisodeEntry:
    videos = {
        key: (
            info.path
            / str(info.video_path).format(
                video_key=key,
                chunk_index=row[f"videos/{key}/chunk_index"],
                file_index=row[f"videos/{key}/file_index"],
            ),
            float(row[f"videos/{key}/from_timestamp"]),
        )
        for key in info.keys("video")
    }
    data = info.data_path.format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
    return EpisodeEntry(
        index=int(row["episode_index"]),
        length=int(row["length"]),
        instruction=str((row.get("tasks") or [""])[0]),
        data=info.path / data,
        videos=videos,
        description=row.get(EXACT),
    )


def _entries_v21(info: Info) -> list[EpisodeEntry]:
    path = info.path / "meta" / "episodes.jsonl"
    verify(path)
    with reading(path):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [_entry_v21(info, row) for row in sorted(rows, key=lambda row: int(row["episode_index"]))]


def _entry_v21(info: Info, row: Mapping[str, Any]) -> EpisodeEntry:
    index = int(row["episode_index"])
    place = {"episode_index": index, "episode_chunk": index // info.chunk_size}
    return EpisodeEntry(
        index=index,
        length=int(row["length"]),
        instruction=str((row.get("tasks") or [""])[0]),
        data=info.path / info.data_path.format(**place),
        videos={
            key: (info.path / str(info.video_path).format(video_key=key, **place), 0.0)
            for key in info.keys("video")
        },
    )


class ParquetFrames:
    """Images stored inside a parquet column, read at the first access."""

    def __init__(self, entry: EpisodeEntry, key: str) -> None:
        self._entry, self._key = entry, key

    @cached_property
    def _stored(self) -> EncodedFrames:
        rows = _read_rows(self._entry, [self._key]).column(self._key).to_pylist()
        return EncodedFrames([row["bytes"] for row in rows], f"{self._entry.data} {self._key}")

    def __len__(self) -> int:
        return self._entry.length

    def __getitem__(self, index: int) -> Image:
        return self._stored[index]

    def encoded(self, index: int) -> bytes:
        """Return image ``index`` as it is stored."""
        return self._stored.encoded(index)


def _read_rows(entry: EpisodeEntry, columns: list[str]) -> pa.Table:
    verify(entry.data)
    with reading(entry.data):
        rows = pq.read_table(
            entry.data,
            columns=columns,
            filters=[("episode_index", "=", entry.index)],
            page_checksum_verification=True,
        )
    if rows.num_rows != entry.length:
        raise DatasetError(
            f"{entry.data}: episode {entry.index} has {rows.num_rows} rows; the metadata say {entry.length}"
        )
    return rows


def _matrix(rows: pa.Table, name: str) -> NDArray[Any]:
    """Return a column as (T, …), fixed lists included."""
    column = rows.column(name).combine_chunks()
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.flatten()).reshape(len(column), -1)
    return np.asarray(column)


class LerobotSource:
    """The episodes of one LeRobot folder.

    ``space`` describes the actions of a dataset whose action names do not say what they mean.
    """

    format = "lerobot"

    def __init__(self, path: Path, *, space: ActionSpace | None = None) -> None:
        self.path = path
        self.info = Info.read(path)
        self._entries = read_entries(self.info)
        self._space = space

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Episode:
        """Return episode ``index``; videos are opened when an image is accessed."""
        entry = self._entries[index]
        origin = f"{entry.data} episode {entry.index}"
        provenance = {"imported_format": self.format, "imported_path": origin}
        with reading(origin):
            images = self._images(entry)
            if entry.description is not None:
                return self._exact(entry, images, provenance)
            return self._foreign(entry, images, provenance)

    def _images(self, entry: EpisodeEntry) -> dict[str, ImageSequence]:
        images: dict[str, ImageSequence] = {}
        for key, (path, start) in entry.videos.items():
            check_length(path, start, entry.length, self.info.rate_hz)
            images[key] = VideoFrames(path, start, entry.length, self.info.rate_hz)
        images |= {key: ParquetFrames(entry, key) for key in self.info.keys("image")}
        return {key.removeprefix(IMAGE_PREFIX): frames for key, frames in images.items()}

    def _exact(
        self, entry: EpisodeEntry, images: Mapping[str, ImageSequence], provenance: Mapping[str, str]
    ) -> Episode:
        names = [name for name in COLUMNS if f"{EXACT}.{name}" in self.info.features]
        rows = _read_rows(entry, [f"{EXACT}.{name}" for name in names])
        columns = {name: _matrix(rows, f"{EXACT}.{name}") for name in names}
        metadata = parse_metadata(str(entry.description), str(entry.data))
        ordered = {camera: images[camera] for camera in metadata["cameras"]}
        return build_episode(metadata, columns, ordered, provenance)

    def _foreign(
        self, entry: EpisodeEntry, images: Mapping[str, ImageSequence], provenance: Mapping[str, str]
    ) -> Episode:
        space = self._space or self._named_space()
        present = [
            key
            for key in ("action", "observation.state", "timestamp", "next.success")
            if key in self.info.features
        ]
        rows = _read_rows(entry, present)
        seconds = _matrix(rows, "timestamp").astype(np.float64)
        poses, gripper = self._state(rows)
        success = "next.success" in present and bool(_matrix(rows, "next.success").any())
        return Episode(
            id=f"episode_{entry.index:06d}",
            instruction=entry.instruction,
            space=space,
            rate_hz=self.info.rate_hz,
            stamps_ns=stamps_from_seconds(seconds),
            images=images,
            actions=_matrix(rows, "action").astype(np.float64),
            poses=poses,
            gripper=gripper,
            outcome="success" if success else "unknown",
            provenance={"robot": self.info.robot, **provenance},
        )

    def _named_space(self) -> ActionSpace:
        """Return the action space of the usual seven names: deltas in the base frame, gripper 1 open."""
        names = self.info.names("action")
        if names != MOTION_NAMES:
            raise DatasetError(
                f"{self.path}: the actions {names or 'without names'} are not {MOTION_NAMES}; give a robot "
                "profile whose action_space defines them"
            )
        return ActionSpace(
            names=MOTION_NAMES,
            units=("m", "m", "m", "rad", "rad", "rad", "1"),
            frame="base",
            rotation="euler_xyz",
            gripper_open=1.0,
            lower=np.array([-1.0] * 3 + [-3.15] * 3 + [0.0]),
            upper=np.array([1.0] * 3 + [3.15] * 3 + [1.0]),
            rate_hz=self.info.rate_hz,
        )

    def _state(self, rows: pa.Table) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        """Return poses (T, 4, 4) and openings (T,) if the state's names identify them."""
        names = self.info.names("observation.state")
        if not set(MOTION_NAMES) <= set(names):
            return None, None
        state = _matrix(rows, "observation.state").astype(np.float64)
        values = state[:, [names.index(name) for name in MOTION_NAMES]]
        poses = np.tile(np.eye(4), (len(values), 1, 1))
        poses[:, :3, :3], poses[:, :3, 3] = transform_euler_to_matrix(values[:, 3:6]), values[:, :3]
        return poses, np.clip(values[:, 6], 0.0, 1.0)
