"""Tiny RLDS datasets as others write them: given columns in the files of TensorFlow Datasets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openvla_ros.data.formats.rlds_writer import shard_name, write_description
from openvla_ros.data.formats.tf_example import Values, serialise_example
from openvla_ros.data.formats.tfrecord import write_record
from openvla_ros.preprocessing.image_encoding import encode_jpeg

Columns = Mapping[str, Any]  # path in the steps → array (T, …), list of T texts or of T images

LENGTH = 4  # steps of each episode


def images(count: int = LENGTH, size: int = 16) -> list[bytes]:
    """Return ``count`` JPEG images, each of its own colour."""
    return [encode_jpeg(np.full((size, size, 3), 20 * i, np.uint8), 95) for i in range(count)]


def write_rlds(
    folder: Path, name: str, episodes: Sequence[Columns], metadata: Columns | None = None, **info: Any
) -> Path:
    """Write dataset ``name`` with one record for each of ``episodes``; returns its folder.

    ``metadata`` are single values outside the steps, the same for every episode; ``info`` overrides fields of
    ``dataset_info.json``.
    """
    out = folder / name / "1.0.0"
    out.mkdir(parents=True)
    outside = dict(metadata or {})
    with (out / shard_name(name, 0, 1)).open("wb") as file:
        for episode in episodes:
            values = {f"steps/{path}": stored(column) for path, column in episode.items()}
            values |= {path: stored(value) for path, value in outside.items()}
            write_record(file, serialise_example(values))
    steps = {"sequence": {"feature": tree(episodes[0]), "length": "-1"}}
    features = tree(outside, whole=True)
    features["featuresDict"]["features"]["steps"] = steps
    write_description(out, name, features, [len(episodes)], [0])
    if info:
        path = out / "dataset_info.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | info))
    return out


def stored(column: Any) -> Values:
    """Return ``column`` as an Example holds it."""
    if isinstance(column, str):
        return [column.encode()]
    if isinstance(column, list):
        return [entry.encode() if isinstance(entry, str) else entry for entry in column]
    array = np.asarray(column)
    return array.reshape(-1).astype(np.float32 if array.dtype.kind == "f" else np.int64)


def tree(columns: Columns, *, whole: bool = False) -> dict[str, Any]:
    """Return the features of ``columns``, nested as TFDS nests them; ``whole`` columns have no steps."""
    root: dict[str, Any] = {"featuresDict": {"features": {}}}
    for path, column in columns.items():
        node = root["featuresDict"]["features"]
        # bc_z and kuka have features whose own names contain a slash; TFDS then has one feature, not two.
        *parents, leaf = path.replace("clip_function_input/", "clip_function_input\0").split("/")
        for name in parents:
            node = node.setdefault(name, {"featuresDict": {"features": {}}})["featuresDict"]["features"]
        node[leaf.replace("\0", "/")] = feature(column, whole=whole)
    return root


def feature(column: Any, *, whole: bool = False) -> dict[str, Any]:
    """Return the description of one column."""
    if isinstance(column, str) or (isinstance(column, list) and isinstance(column[0], str)):
        return {"text": {}}
    if isinstance(column, list):
        return {"image": {"shape": {"dimensions": ["-1", "-1", "3"]}, "encodingFormat": "jpeg"}}
    array = np.asarray(column)
    dimensions = [str(n) for n in (array.shape if whole else array.shape[1:])]
    shape = {"dimensions": dimensions} if dimensions else {}
    return {"tensor": {"shape": shape, "dtype": str(array.dtype), "encoding": "none"}}
