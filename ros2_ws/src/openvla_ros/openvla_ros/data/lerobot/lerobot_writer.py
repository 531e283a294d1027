"""LeRobot 3.0 datasets, written without LeRobot.

A group of episodes becomes one parquet file and one video a camera (``LerobotPart``); the merge
numbers rows, episodes and tasks through and writes ``meta/``. Videos are lossy; ``"image"`` keeps
every image inside the parquet file instead, JPEG and PNG unchanged and pixels as PNG.

What a dataset means is written where LeRobot's own tools keep it when they delete, split or merge
(``action_meaning``), with the statistics that they need (``column_statistics``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from openvla_ros.data.episodes.atomic_move import place
from openvla_ros.data.episodes.encoded_images import encoded_frame
from openvla_ros.data.episodes.episode_columns import episode_columns, episode_metadata
from openvla_ros.data.episodes.layout import Layout
from openvla_ros.data.episodes.observation_state import observation_state
from openvla_ros.data.episodes.video_files import Codec, VideoWriter
from openvla_ros.data.lerobot.action_meaning import (
    FLAGS,
    FLAGS_SAID,
    MOTION_NAMES,
    flags_column,
    meaning_entry,
)
from openvla_ros.data.lerobot.column_statistics import (
    ColumnStatistics,
    image_histogram,
    image_statistics,
)
from openvla_ros.data.lerobot.dataset_card import dataset_card
from openvla_ros.data.lerobot.dataset_info import EXACT, IMAGE_PREFIX
from openvla_ros.errors import DatasetError
from openvla_ros.preprocessing.image_encoding import encode_png
from openvla_ros.values.episode import Episode

Storage = Literal["av1", "h264", "image"]

CHUNK_SIZE = 1000  # files a folder
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # as the datasets library stores it
_PARQUET = {"compression": "snappy", "write_page_checksum": True}
_CARD = "README.md"
_SAMPLES = 8  # images of each episode and camera that enter the image statistics

ROWS, EPISODES = "rows.parquet", "episodes.json"


def check_storage(layout: Layout, storage: Storage) -> None:
    """Raise ``DatasetError`` if images of this size cannot be stored so, naming what can."""
    if storage != "h264":
        return
    for camera, (height, width) in layout.cameras.items():
        if height % 2 or width % 2:
            raise DatasetError(
                f"camera {camera!r} is {width}×{height}, and H.264 needs even sizes; "
                "--images av1 takes them, and so does --images image"
            )


class LerobotPart:
    """Writes one group of episodes below ``folder``; a context manager."""

    def __init__(self, folder: Path, layout: Layout, storage: Storage) -> None:
        self._folder = folder
        self._storage = storage
        self._layout = layout
        self._rows: pq.ParquetWriter | None = None
        self._videos: dict[str, VideoWriter] = {}
        self._entries: list[dict[str, Any]] = []
        self._stack = ExitStack()

    def __enter__(self) -> LerobotPart:
        if self._storage != "image":
            codec: Codec = self._storage
            for camera in self._layout.cameras:
                writer = VideoWriter(self._folder / f"{camera}.mp4", self._layout.rate_hz, codec)
                self._videos[camera] = self._stack.enter_context(writer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if self._rows is not None:
            self._rows.close()
        (self._folder / EPISODES).write_text(json.dumps(self._entries), encoding="utf-8")

    def add(self, episode: Episode) -> None:
        """Append ``episode``: its rows as one row group, its images to the videos."""
        start_s = {camera: video.count / self._layout.rate_hz for camera, video in self._videos.items()}
        table = self._table(episode)
        if self._rows is None:
            self._rows = pq.ParquetWriter(self._folder / ROWS, table.schema, **_PARQUET)
        self._rows.write_table(table)
        statistics = {}
        for camera, images in episode.images.items():
            if self._storage != "image":
                for index in range(len(images)):
                    self._videos[camera].add(images[index])
            chosen = np.unique(np.linspace(0, len(images) - 1, _SAMPLES).astype(int))
            statistics[camera] = image_histogram([images[int(index)] for index in chosen])
        self._entries.append(
            {
                "length": len(episode),
                "instruction": episode.instruction,
                "description": episode_metadata(episode),
                "start_s": start_s,
                "images": statistics,
            }
        )

    def _table(self, episode: Episode) -> pa.Table:
        length = len(episode)
        index = np.arange(length)
        columns: dict[str, Any] = {"action": _rows_of(episode.actions.astype(np.float32))}
        state = observation_state(episode)
        if state is not None:
            columns["observation.state"] = _rows_of(state)
        for name, values in _own_columns(episode).items():
            columns[f"{EXACT}.{name}"] = _rows_of(values)
        if self._storage == "image":
            for camera, images in episode.images.items():
                blobs = [encoded_frame(images, i) or encode_png(images[i]) for i in range(length)]
                rows = [{"bytes": blob, "path": None} for blob in blobs]
                columns[IMAGE_PREFIX + camera] = pa.array(rows, _IMAGE_TYPE)
        columns["timestamp"] = pa.array((index / episode.rate_hz).astype(np.float32))
        for name in ("frame_index", "episode_index", "index", "task_index"):
            columns[name] = pa.array(index.astype(np.int64))
        return pa.table(columns)


def _rows_of(values: NDArray[Any]) -> pa.Array:
    """Return (T,) as a column of scalars and (T, D) as one of lists."""
    if values.ndim == 1:
        return pa.array(values)
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(values).reshape(-1)))


def _own_columns(episode: Episode) -> dict[str, NDArray[Any]]:
    """Return the exact numbers; of a pose the 12 that vary: checkers take constant columns for faults."""
    columns = episode_columns(episode)
    if "pose" in columns:
        columns["pose"] = columns["pose"][:, :12]
    del columns["intervention"]  # in most datasets there is none: it stands in the flags
    return {**columns, FLAGS: flags_column(episode.outcome, episode.intervention)}


def merge_parts(
    parts: Sequence[Path], destination: Path, layout: Layout, storage: Storage, robot: str
) -> None:
    """Join the parts below ``destination`` into one dataset and write its ``meta/``.

    ``layout`` and ``storage`` are those that the parts were written with.
    """
    merge = _Merge(destination, layout, storage)
    for index, part in enumerate(parts):
        merge.take(part, index)
    merge.finish(robot)


class _Merge:
    def __init__(self, destination: Path, layout: Layout, storage: Storage) -> None:
        self._destination, self._layout, self._storage = destination, layout, storage
        self._tasks: dict[str, int] = {}
        self._episodes: list[dict[str, Any]] = []
        self._images: dict[str, list[dict[str, Any]]] = {camera: [] for camera in layout.cameras}
        self._statistics = ColumnStatistics()
        self._schema: pa.Schema | None = None
        self._frames = 0

    def take(self, part: Path, index: int) -> None:
        """Number the rows of ``part`` through and put its videos in place."""
        chunk, file = divmod(index, CHUNK_SIZE)
        entries = json.loads((part / EPISODES).read_text(encoding="utf-8"))
        path = self._destination / DATA_PATH.format(chunk_index=chunk, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = pq.ParquetFile(part / ROWS)
        self._schema = rows.schema_arrow
        with pq.ParquetWriter(path, self._schema, **_PARQUET) as writer:
            for group, entry in enumerate(entries):
                numbered = self._number(rows.read_row_group(group), entry)
                writer.write_table(numbered)
                self._record(entry, chunk, file, self._account(numbered))
        for camera in self._layout.cameras:
            if self._storage != "image":
                key = IMAGE_PREFIX + camera
                target = VIDEO_PATH.format(video_key=key, chunk_index=chunk, file_index=file)
                place(part / f"{camera}.mp4", self._destination / target)

    def _number(self, rows: pa.Table, entry: Mapping[str, Any]) -> pa.Table:
        task = self._tasks.setdefault(entry["instruction"], len(self._tasks))
        length = entry["length"]
        numbers = {
            "episode_index": np.full(length, len(self._episodes)),
            "index": np.arange(self._frames, self._frames + length),
            "task_index": np.full(length, task),
        }
        for name, values in numbers.items():
            place = rows.schema.get_field_index(name)
            rows = rows.set_column(place, name, pa.array(values.astype(np.int64)))
        return rows

    def _account(self, rows: pa.Table) -> dict[str, Any]:
        """Take in the numbers of one episode and return their statistics, by column and name."""
        columns = {}
        for field in rows.schema:
            if pa.types.is_struct(field.type):
                continue
            column = rows.column(field.name).combine_chunks()
            flat = column.flatten() if pa.types.is_list(column.type) else column
            columns[field.name] = np.asarray(flat).astype(np.float64).reshape(len(column), -1)
        return {
            f"stats/{column}/{name}": value
            for column, values in self._statistics.add(columns).items()
            for name, value in values.items()
        }

    def _record(self, entry: Mapping[str, Any], chunk: int, file: int, statistics: Mapping[str, Any]) -> None:
        length, index = entry["length"], len(self._episodes)
        row: dict[str, Any] = {
            "episode_index": index,
            "tasks": [entry["instruction"]],
            "length": length,
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + length,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
            EXACT: entry["description"],
        }
        for camera, start_s in entry["start_s"].items():
            place = f"videos/{IMAGE_PREFIX}{camera}"
            row[f"{place}/chunk_index"], row[f"{place}/file_index"] = chunk, file
            row[f"{place}/from_timestamp"] = start_s
            row[f"{place}/to_timestamp"] = start_s + length / self._layout.rate_hz
        row |= statistics
        for camera, histogram in entry["images"].items():
            self._images[camera].append(histogram)
            for name, value in image_statistics([histogram]).items():
                row[f"stats/{IMAGE_PREFIX}{camera}/{name}"] = value
        self._episodes.append(row)
        self._frames += length

    def finish(self, robot: str) -> None:
        """Write ``meta/``."""
        meta = self._destination / "meta"
        (meta / "episodes" / "chunk-000").mkdir(parents=True, exist_ok=True)
        episodes = meta / "episodes" / "chunk-000" / "file-000.parquet"
        pq.write_table(pa.Table.from_pylist(self._episodes), episodes, **_PARQUET)
        pq.write_table(_task_table(self._tasks), meta / "tasks.parquet", **_PARQUET)
        info = self._info(robot)
        (meta / "stats.json").write_text(json.dumps(self._stats(), indent=2), encoding="utf-8")
        (meta / "info.json").write_text(json.dumps(info, indent=2), encoding="utf-8")
        card = dataset_card(self._destination.name, info, list(self._tasks), self._layout.space)
        (self._destination / _CARD).write_text(card, encoding="utf-8")

    def _stats(self) -> dict[str, Any]:
        images = {
            IMAGE_PREFIX + camera: image_statistics(histograms) for camera, histograms in self._images.items()
        }
        return {**self._statistics.values(), **images}

    def _info(self, robot: str) -> dict[str, Any]:
        rate = self._layout.rate_hz
        return {
            "codebase_version": "v3.0",
            "robot_type": robot or None,
            "total_episodes": len(self._episodes),
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNK_SIZE,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": int(rate) if rate == int(rate) else rate,
            "splits": {"train": f"0:{len(self._episodes)}"},
            "data_path": DATA_PATH,
            "video_path": None if self._storage == "image" else VIDEO_PATH,
            "features": self._features(),
        }

    def _features(self) -> dict[str, Any]:
        features: dict[str, Any] = {}
        for camera, (height, width) in self._layout.cameras.items():
            features[IMAGE_PREFIX + camera] = {
                "dtype": "image" if self._storage == "image" else "video",
                "shape": [height, width, 3],
                "names": ["height", "width", "channels"],
                **({} if self._storage == "image" else {"info": self._video_info(height, width)}),
            }
        names = {"action": list(self._layout.action_names), "observation.state": list(MOTION_NAMES)}
        for column in self._schema or ():
            if column.name not in features:
                features[column.name] = self._feature(column, names.get(column.name))
        features["action"] |= meaning_entry(self._layout.space)
        features[f"{EXACT}.{FLAGS}"][EXACT] = FLAGS_SAID
        return features

    def _feature(self, column: Any, names: list[str] | None) -> dict[str, Any]:
        nested = pa.types.is_list(column.type)
        width = self._statistics.width(column.name) if nested else 1
        scalar = column.type.value_type if nested else column.type
        dtype = str(pa.array([], type=scalar).to_numpy(zero_copy_only=False).dtype)
        return {"dtype": dtype, "shape": [width], "names": names if nested else None}

    def _video_info(self, height: int, width: int) -> dict[str, Any]:
        return {
            "video.height": height,
            "video.width": width,
            "video.codec": self._storage,
            "video.pix_fmt": "yuv420p",
            "is_depth_map": False,
            "video.fps": self._layout.rate_hz,
            "video.channels": 3,
            "has_audio": False,
        }


def _task_table(tasks: Mapping[str, int]) -> pa.Table:
    """Return the tasks as pandas stores a frame whose index is the task's text."""
    numbers, texts = pa.array(list(tasks.values()), pa.int64()), pa.array(list(tasks), pa.string())
    table = pa.table({"task_index": numbers, "task": texts})
    described = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_type, "metadata": None}
        for name, kind, numpy_type in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": described,
        "pandas_version": "2.2.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})
