"""What ``meta/`` of a LeRobot dataset says: features, paths, where each episode is stored, and the tasks.

Versions 3.0, 2.1 and 2.0 differ in where files lie; 2.0 and 2.1 in their statistics alone, which are not
read here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from openvla_ros.errors import DatasetError
from openvla_ros.integrity.checksums import say_unverified, verify
from openvla_ros.integrity.damage import reading

EXACT = "openvla_ros"  # prefix of this package's columns, and name of its entries in ``meta/``
VERSIONS = ("v3.0", "v2.1", "v2.0")
IMAGE_PREFIX = "observation.images."


@dataclass(frozen=True)
class EpisodeEntry:
    """The location of one episode."""

    index: int
    length: int
    tasks: tuple[str, ...]  # what ``meta/episodes`` says; the frames' ``task_index`` decides
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
            version = values.get("codebase_version")
            if version not in VERSIONS:
                raise DatasetError(
                    f"{path}: codebase_version is {version!r}; supported: {', '.join(VERSIONS)}"
                )
            if lacking := [key for key in ("fps", "features", "data_path") if key not in values]:
                raise DatasetError(f"{path}: lacks {', '.join(lacking)}")
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

    def cameras(self, dtype: str) -> list[str]:
        """Return the features of ``dtype``, "image" or "video", that hold colours."""
        return [key for key in self._images(dtype) if not is_depth(self.features[key])]

    def depth_maps(self) -> list[str]:
        """Return the features that hold distances, or one channel, in place of colours."""
        return [
            key for dtype in ("image", "video") for key in self._images(dtype) if is_depth(self.features[key])
        ]

    def _images(self, dtype: str) -> list[str]:
        return [key for key, feature in self.features.items() if feature["dtype"] == dtype]

    def key(self, *names: str) -> str | None:
        """Return the first of ``names`` that is a feature, or None."""
        return next((name for name in names if name in self.features), None)

    def names(self, key: str) -> tuple[str, ...]:
        """Return the names of a feature's numbers, flattened; empty where there are none."""
        names = self.features.get(key, {}).get("names") or ()
        if isinstance(names, Mapping):
            groups = [group if isinstance(group, list) else [group] for group in names.values()]
            names = [name for group in groups for name in group]
        return tuple(str(name) for name in names)

    def name_groups(self, key: str) -> tuple[str, ...]:
        """Return the titles under which a feature's names stand ("motors", "joints"), if there are any."""
        names = self.features.get(key, {}).get("names")
        return tuple(str(title) for title in names) if isinstance(names, Mapping) else ()


def is_depth(feature: Mapping[str, Any]) -> bool:
    """Return whether an image feature holds distances, as any LeRobot marks them, or a single channel."""
    noted = [feature.get("info") or {}, feature.get("video_info") or {}]
    if any(note.get("is_depth_map") or note.get("video.is_depth_map") for note in noted):
        return True
    if any(str(note.get("video.pix_fmt") or "").startswith("gray") for note in noted):
        return True
    shape = list(feature.get("shape") or ())
    return len(shape) == 2 or (len(shape) == 3 and 1 in (shape[0], shape[2]))


def _count(values: Mapping[str, Any], name: str, path: Path) -> int | None:
    value = values.get(name)
    if value is not None and (type(value) is not int or value < 0):
        raise DatasetError(f"{path}: {name} is {value!r}; it must be a whole number, 0 or more")
    return value


def read_entries(info: Info) -> list[EpisodeEntry]:
    """Return where every episode is stored, in order; raises ``DatasetError`` if their number is wrong."""
    entries = _entries_v3(info) if info.version == "v3.0" else _entries_v2(info)
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
    with reading(info.path / "meta" / "episodes"):
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
        for key in info.cameras("video")
    }
    data = info.data_path.format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
    return EpisodeEntry(
        index=int(row["episode_index"]),
        length=int(row["length"]),
        tasks=_texts(row.get("tasks")),
        data=info.path / data,
        videos=videos,
        description=row.get(EXACT),
    )


def _entries_v2(info: Info) -> list[EpisodeEntry]:
    path = info.path / "meta" / "episodes.jsonl"
    rows = _json_lines(path)
    with reading(path):
        return [_entry_v2(info, row) for row in sorted(rows, key=lambda row: int(row["episode_index"]))]


def _entry_v2(info: Info, row: Mapping[str, Any]) -> EpisodeEntry:
    index = int(row["episode_index"])
    place = {"episode_index": index, "episode_chunk": index // info.chunk_size}
    return EpisodeEntry(
        index=index,
        length=int(row["length"]),
        tasks=_texts(row.get("tasks")),
        data=info.path / info.data_path.format(**place),
        videos={
            key: (info.path / str(info.video_path).format(video_key=key, **place), 0.0)
            for key in info.cameras("video")
        },
    )


def _texts(tasks: Any) -> tuple[str, ...]:
    return (tasks,) if isinstance(tasks, str) else tuple(str(task) for task in tasks or ())


def _json_lines(path: Path) -> list[dict[str, Any]]:
    verify(path)
    with reading(path):
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def read_tasks(info: Info) -> dict[int, str]:
    """Return ``task_index`` → text; empty where the dataset has no such table."""
    table, lines = info.path / "meta" / "tasks.parquet", info.path / "meta" / "tasks.jsonl"
    if info.version == "v3.0" and table.is_file():
        verify(table)
        with reading(table):
            rows = pq.read_table(table, page_checksum_verification=True)
            pairs = list(zip(rows.column("task_index").to_pylist(), _task_texts(rows), strict=True))
    elif info.version != "v3.0" and lines.is_file():
        rows_v2 = _json_lines(lines)
        with reading(lines):
            pairs = [(row["task_index"], row["task"]) for row in rows_v2]
    else:
        return {}
    tasks = {int(number): str(text) for number, text in pairs}
    if len(tasks) != len(pairs):
        raise DatasetError(f"{info.path}: meta/tasks gives two texts to one task_index")
    return tasks


def _task_texts(rows: pa.Table) -> list[str]:
    """Return the column of texts: the index of a pandas table, which pandas may have left without a name."""
    texts = [name for name in rows.column_names if pa.types.is_string(rows.schema.field(name).type)]
    texts += [name for name in rows.column_names if pa.types.is_large_string(rows.schema.field(name).type)]
    if not texts:
        raise DatasetError(f"no column of texts among {rows.column_names}")
    found: list[str] = rows.column("task" if "task" in texts else texts[0]).to_pylist()
    return found
