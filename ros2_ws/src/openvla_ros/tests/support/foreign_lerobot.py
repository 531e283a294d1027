"""LeRobot datasets as other tools write them, and edits as other tools make them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from openvla_ros.integrity.checksums import SUMS
from openvla_ros.preprocessing.image_encoding import encode_png

MOTION = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]


def foreign_actions(steps: int, seed: int = 0) -> np.ndarray:
    """Small deltas (T, 7) and an open gripper."""
    actions = np.random.default_rng(seed).normal(0.0, 0.01, (steps, 7)).astype(np.float32)
    actions[:, 6] = 1.0
    return actions


def write_foreign(
    folder: Path,
    lengths: Sequence[int] = (6, 8),
    *,
    version: str = "v3.0",
    fps: float = 5,
    keys: Sequence[str] = ("action", "observation.state", "observation.images.top"),
    names: Any = None,
    image: Callable[[int, int], Any] | None = None,
    tasks: Sequence[str] = ("pick up the cup",),
    task_of: Callable[[int, int], int] = lambda episode, step: 0,
    listed_tasks: bool = True,
    features: dict[str, Any] | None = None,
    columns: dict[str, Callable[[int, int], Any]] | None = None,
) -> Path:
    """Write a dataset; ``image``, ``task_of`` and ``columns`` are functions of episode and step."""
    action, state, camera = keys
    picture = image or (lambda episode, step: {"bytes": plain_png(step * 20 % 256), "path": None})
    old = version != "v3.0"
    described: dict[str, Any] = {
        action: {"dtype": "float32", "shape": [7], "names": MOTION if names is None else names},
        state: {"dtype": "float32", "shape": [7], "names": None},
        camera: {"dtype": "image", "shape": [48, 64, 3], "names": ["height", "width", "channel"]},
        **{
            name: {"dtype": dtype, "shape": [1], "names": None}
            for name, dtype in (
                ("timestamp", "float32"), ("frame_index", "int64"), ("episode_index", "int64"),
                ("index", "int64"), ("task_index", "int64"),
            )
        },
        **(features or {}),
    }  # fmt: skip
    info = {
        "codebase_version": version, "fps": fps, "chunks_size": 1000, "robot_type": "panda",
        "total_episodes": len(lengths), "total_frames": sum(lengths), "total_tasks": len(tasks),
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet" if old
        else "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None, "features": described,
    }  # fmt: skip
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    (folder / "data/chunk-000").mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps(info))
    tables, rows = [], []
    for episode, length in enumerate(lengths):
        used = [task_of(episode, step) for step in range(length)]
        table: dict[str, Any] = {
            action: foreign_actions(length, episode).tolist(),
            state: np.zeros((length, 7), np.float32).tolist(),
            camera: [picture(episode, step) for step in range(length)],
            "timestamp": (np.arange(length) / fps).astype(np.float32),
            "frame_index": np.arange(length), "episode_index": np.full(length, episode),
            "index": np.arange(length), "task_index": np.array(used),
            **{
                name: [value(episode, step) for step in range(length)]
                for name, value in (columns or {}).items()
            },
        }  # fmt: skip
        tables.append(pa.table(table))
        row: dict[str, Any] = {"episode_index": episode, "length": length}
        if listed_tasks:
            row["tasks"] = [tasks[number] for number in sorted(set(used))]
        rows.append(row if old else {**row, "data/chunk_index": 0, "data/file_index": 0})
    if old:
        for episode, table in enumerate(tables):
            pq.write_table(table, folder / f"data/chunk-000/episode_{episode:06d}.parquet")
        lines = [{"task_index": number, "task": task} for number, task in enumerate(tasks)]
        (folder / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        (folder / "meta/tasks.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    else:
        pq.write_table(pa.concat_tables(tables), folder / "data/chunk-000/file-000.parquet")
        pq.write_table(pa.Table.from_pylist(rows), folder / "meta/episodes/chunk-000/file-000.parquet")
        # pandas names the index of a frame so when it has no name.
        numbered = {"task_index": list(range(len(tasks))), "__index_level_0__": list(tasks)}
        pq.write_table(pa.table(numbered), folder / "meta/tasks.parquet")
    return folder


def plain_png(value: int) -> bytes:
    """A grey image of 64×48."""
    return encode_png(np.full((48, 64, 3), value, np.uint8))


def change_column(folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Rewrite one column of every data file, as a tool that knows nothing of this package would."""
    (folder / SUMS).unlink(missing_ok=True)
    for path in (folder / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        column = table.column(name).combine_chunks()
        nested = pa.types.is_list(column.type)
        values = np.array(column.to_pylist())
        changed = change(values).astype(values.dtype)
        place = table.schema.get_field_index(name)
        array = pa.array(changed.tolist() if nested else changed, column.type)
        pq.write_table(table.set_column(place, name, array), path)


def drop_column(folder: Path, name: str) -> None:
    """Remove a feature, from ``info.json`` too."""
    (folder / SUMS).unlink(missing_ok=True)
    for path in (folder / "data").rglob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns([name]), path)
    edit_info(folder, lambda info: info["features"].pop(name))


def edit_info(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change ``meta/info.json`` in place."""
    (folder / SUMS).unlink(missing_ok=True)
    path = folder / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def lose_unknown_columns(folder: Path) -> None:
    """Leave of ``meta/episodes`` what LeRobot knows: what its delete, split and conversion to video do."""
    (folder / SUMS).unlink(missing_ok=True)
    for path in (folder / "meta/episodes").rglob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["openvla_ros"]), path)
