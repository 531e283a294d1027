"""LeRobot 3.0 datasets, written without LeRobot.

A group of episodes becomes one parquet file and one video a camera (``LerobotPart``); the merge
numbers rows, episodes and tasks through and writes ``meta/``. Videos are lossy; ``"image"`` keeps
every image inside the parquet file instead, JPEG and PNG unchanged and pixels as PNG.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

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
from openvla_ros.data.formats.lerobot_reader import EXACT, IMAGE_PREFIX, MOTION_NAMES
from openvla_ros.preprocessing.image_encoding import encode_png
from openvla_ros.preprocessing.statistics_accumulator import StatisticsAccumulator
from openvla_ros.values.episode import Episode

Storage = Literal["av1", "h264", "image"]
STORAGES: tuple[Storage, ...] = get_args(Storage)

CHUNK_SIZE = 1000  # files a folder
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # as the datasets library stores it
_PARQUET = {"compression": "snappy", "write_page_checksum": True}
_STATISTICS = ("action", "observation.state", "timestamp")
_SAMPLES = 8  # images of each episode and camera that enter the image statistics

ROWS, EPISODES = "rows.parquet", "episodes.json"


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
            statistics[camera] = image_moments([images[int(index)] for index in chosen])
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
        for name, values in episode_columns(episode).items():
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


def image_moments(images: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
    """Return per channel, in 0..1: count, sum, sum of squares, least and largest value."""
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255.0
    return {
        "count": len(pixels),
        "images": len(images),
        "sum": pixels.sum(axis=0).tolist(),
        "squares": np.square(pixels).sum(axis=0).tolist(),
        "min": pixels.min(axis=0).tolist(),
        "max": pixels.max(axis=0).tolist(),
    }


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
        self._statistics: dict[str, StatisticsAccumulator] = {}
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
                writer.write_table(self._number(rows.read_row_group(group), entry))
                self._record(entry, chunk, file)
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
        for name in _STATISTICS:
            if name in rows.column_names:
                self._account(name, rows)
        return rows

    def _account(self, name: str, rows: pa.Table) -> None:
        column = rows.column(name).combine_chunks()
        flat = column.flatten() if pa.types.is_list(column.type) else column
        values = np.asarray(flat, np.float64).reshape(len(column), -1)
        self._statistics.setdefault(name, StatisticsAccumulator(values.shape[1])).add(values)

    def _record(self, entry: Mapping[str, Any], chunk: int, file: int) -> None:
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
        for camera, moments in entry["images"].items():
            self._images[camera].append(moments)
        self._episodes.append(row)
        self._frames += length

    def finish(self, robot: str) -> None:
        """Write ``meta/``."""
        meta = self._destination / "meta"
        (meta / "episodes" / "chunk-000").mkdir(parents=True, exist_ok=True)
        episodes = meta / "episodes" / "chunk-000" / "file-000.parquet"
        pq.write_table(pa.Table.from_pylist(self._episodes), episodes, **_PARQUET)
        pq.write_table(_task_table(self._tasks), meta / "tasks.parquet", **_PARQUET)
        (meta / "stats.json").write_text(json.dumps(dict(self._stats()), indent=2), encoding="utf-8")
        (meta / "info.json").write_text(json.dumps(self._info(robot), indent=2), encoding="utf-8")

    def _stats(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, accumulator in self._statistics.items():
            found = accumulator.statistics(np.ones(accumulator.width, np.bool_))
            values = {
                key: getattr(found, key).tolist() for key in ("min", "max", "mean", "std", "q01", "q99")
            }
            yield name, {**values, "count": [accumulator.count]}
        for camera, moments in self._images.items():
            yield IMAGE_PREFIX + camera, image_statistics(moments)

    def _info(self, robot: str) -> dict[str, Any]:
        rate = self._layout.rate_hz
        return {
            "codebase_version": "v3.0",
            "robot_type": robot,
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
        return features

    def _feature(self, column: Any, names: list[str] | None) -> dict[str, Any]:
        nested = pa.types.is_list(column.type)
        width = self._width(column.name) if nested else 1
        scalar = column.type.value_type if nested else column.type
        dtype = str(pa.array([], type=scalar).to_numpy(zero_copy_only=False).dtype)
        return {"dtype": dtype, "shape": [width], "names": names if nested else None}

    def _width(self, name: str) -> int:
        if name in self._statistics:
            return self._statistics[name].width
        return self._layout.columns[name.removeprefix(f"{EXACT}.")]

    def _video_info(self, height: int, width: int) -> dict[str, Any]:
        return {
            "video.height": height,
            "video.width": width,
            "video.codec": self._storage,
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
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


def image_statistics(moments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the joined statistics of ``image_moments`` in LeRobot's shape (3, 1, 1)."""
    count = sum(m["count"] for m in moments)
    mean = np.sum([m["sum"] for m in moments], axis=0) / count
    variance = np.sum([m["squares"] for m in moments], axis=0) / count - np.square(mean)
    values = {
        "min": np.min([m["min"] for m in moments], axis=0),
        "max": np.max([m["max"] for m in moments], axis=0),
        "mean": mean,
        "std": np.sqrt(np.maximum(variance, 0.0)),
    }
    shaped = {name: value.reshape(3, 1, 1).tolist() for name, value in values.items()}
    return {**shaped, "count": [sum(m["images"] for m in moments)]}
