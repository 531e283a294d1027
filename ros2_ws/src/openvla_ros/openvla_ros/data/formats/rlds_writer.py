"""RLDS datasets in the layout of TensorFlow Datasets, written without TensorFlow.

``tensorflow_datasets.builder_from_directory`` reads the folder. The usual fields are float32 as
OpenVLA and Octo expect them (``action``, ``observation/state``, ``observation/image_<camera>``,
``language_instruction``); the group ``openvla_ros`` beside them keeps the exact numbers. JPEG and
PNG images of the source are passed on unchanged, raw ones become PNG.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openvla_ros.data.episodes.encoded_images import encoded_frame, image_format
from openvla_ros.data.episodes.episode_columns import episode_columns, episode_metadata
from openvla_ros.data.episodes.observation_state import observation_state
from openvla_ros.data.formats.rlds_metadata import EXACT
from openvla_ros.data.formats.rlds_reader import FEATURES, INFO
from openvla_ros.data.formats.tf_example import Values, serialise_example
from openvla_ros.data.formats.tfrecord import write_record
from openvla_ros.preprocessing.image_encoding import encode_png
from openvla_ros.values.episode import Episode, ImageSequence

_CORE = "tensorflow_datasets.core.features"
VERSION = "1.0.0"
SPLIT = "train"


def stored_frames(images: ImageSequence) -> list[bytes]:
    """Return every image compressed: as the source stores it, or as PNG where it holds pixels."""
    frames = []
    for index in range(len(images)):
        data = encoded_frame(images, index)
        frames.append(encode_png(images[index]) if data is None else data)
    return frames


def step_columns(episode: Episode) -> dict[str, Any]:
    """Return the columns of the steps, nested like the features; images as lists of bytes."""
    length = len(episode)
    last = np.arange(length) == length - 1
    observation: dict[str, Any] = {
        f"image_{camera}": stored_frames(images) for camera, images in episode.images.items()
    }
    state = observation_state(episode)
    if state is not None:
        observation["state"] = state
    if episode.joint_positions is not None:
        observation["joint_positions"] = episode.joint_positions.astype(np.float32)
    return {
        "observation": observation,
        "action": episode.actions.astype(np.float32),
        "language_instruction": [episode.instruction] * length,
        "discount": np.ones(length, np.float32),
        "reward": (last & (episode.outcome == "success")).astype(np.float32),
        "is_first": np.arange(length) == 0,
        "is_last": last,
        "is_terminal": last & (episode.outcome != "unknown"),
        EXACT: episode_columns(episode),
    }


def episode_example(episode: Episode) -> bytes:
    """Return ``episode`` as one serialised ``tf.train.Example``."""
    values: dict[str, Values] = {
        "episode_metadata/file_path": [_origin(episode).encode()],
        f"episode_metadata/{EXACT}": [episode_metadata(episode).encode()],
    }
    _flatten("steps", step_columns(episode), values)
    return serialise_example(values)


def _origin(episode: Episode) -> str:
    """Return where ``episode`` came from in the first place, or its id if that is not known."""
    known = (episode.provenance.get(name) for name in ("file_path", "path", "imported_path"))
    return next((path for path in known if path), episode.id)


def _flatten(path: str, node: Any, into: dict[str, Values]) -> None:
    if isinstance(node, dict):
        for name, child in node.items():
            _flatten(f"{path}/{name}", child, into)
    elif isinstance(node, list):
        into[path] = [entry.encode() if isinstance(entry, str) else entry for entry in node]
    elif node.dtype == np.float64:  # an Example has no float64: each step's numbers as bytes
        into[path] = [np.ascontiguousarray(row, "<f8").tobytes() for row in node]
    elif node.dtype == np.float32:
        into[path] = node.reshape(-1)
    else:
        into[path] = node.reshape(-1).astype(np.int64)


def describe_features(episode: Episode) -> dict[str, Any]:
    """Return ``features.json`` for episodes like ``episode``."""
    steps = _describe(step_columns(episode.slice(0, 1)))
    return _dictionary(
        {
            "steps": {
                "pythonClassName": f"{_CORE}.dataset_feature.Dataset",
                "sequence": {"feature": steps, "length": "-1"},
            },
            "episode_metadata": _dictionary({"file_path": _text(), EXACT: _text()}),
        }
    )


def _dictionary(features: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "pythonClassName": f"{_CORE}.features_dict.FeaturesDict",
        "featuresDict": {"features": dict(features)},
    }


def _text() -> dict[str, Any]:
    return {"pythonClassName": f"{_CORE}.text_feature.Text", "text": {}}


def _describe(node: Any) -> dict[str, Any]:
    if isinstance(node, dict):
        return _dictionary({name: _describe(child) for name, child in node.items()})
    if isinstance(node, list):
        return _text() if isinstance(node[0], str) else _image(node[0])
    shape = {"dimensions": [str(n) for n in node.shape[1:]]} if node.ndim > 1 else {}
    encoding = "bytes" if node.dtype == np.float64 else "none"
    kind = "tensor_feature.Tensor" if node.ndim > 1 or encoding == "bytes" else "scalar.Scalar"
    tensor = {"shape": shape, "dtype": str(node.dtype), "encoding": encoding}
    return {"pythonClassName": f"{_CORE}.{kind}", "tensor": tensor}


def _image(data: bytes) -> dict[str, Any]:
    image = {
        "shape": {"dimensions": ["-1", "-1", "3"]},
        "dtype": "uint8",
        "encodingFormat": image_format(data),
    }
    return {"pythonClassName": f"{_CORE}.image_feature.Image", "image": image}


def write_shard(path: Path, episodes: Sequence[Episode]) -> int:
    """Write ``episodes`` as one TFRecord file; returns the bytes of data in it."""
    total = 0
    with path.open("wb") as file:
        for episode in episodes:
            data = episode_example(episode)
            write_record(file, data)
            total += len(data)
    return total


def shard_name(dataset: str, index: int, count: int) -> str:
    """Return the file name that TFDS expects for shard ``index`` of ``count``."""
    return f"{dataset}-{SPLIT}.tfrecord-{index:05d}-of-{count:05d}"


def write_description(
    folder: Path, dataset: str, features: Mapping[str, Any], lengths: Sequence[int], sizes: Sequence[int]
) -> None:
    """Write the two JSON files beside shards of ``lengths`` episodes and ``sizes`` bytes."""
    info = {
        "citation": "",
        "description": "Robot demonstrations written by openvla_ros.",
        "fileFormat": "tfrecord",
        "moduleName": dataset,
        "name": dataset,
        "releaseNotes": {VERSION: "Converted."},
        "splits": [
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": SPLIT,
                "numBytes": str(sum(sizes)),
                "shardLengths": [str(n) for n in lengths],
            }
        ],
        "version": VERSION,
    }
    for name, values in ((FEATURES, features), (INFO, info)):
        (folder / name).write_text(json.dumps(values, indent=2), encoding="utf-8")
