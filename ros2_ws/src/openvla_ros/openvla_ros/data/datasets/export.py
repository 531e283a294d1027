"""Writing episodes in one of the formats: a part for each group of episodes, then a merge of the parts.

Each format provides two functions of plain values, so that groups can be written by any process on any
machine that shares the destination folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

from openvla_ros.data.bags.bag_export import write_episode
from openvla_ros.data.episodes.atomic_move import place
from openvla_ros.data.episodes.layout import Layout
from openvla_ros.data.formats.rlds_writer import (
    VERSION,
    describe_features,
    episode_example,
    shard_name,
    write_description,
)
from openvla_ros.data.formats.tfrecord import write_record
from openvla_ros.data.hdf.robomimic_writer import Hdf5Writer
from openvla_ros.data.lerobot.lerobot_writer import LerobotPart, Storage, merge_parts
from openvla_ros.values.episode import Episode

Target = Literal["bag", "rlds", "lerobot", "hdf5"]

_SHARD, _SIZE, _FEATURES, _DEMOS = "shard.tfrecord", "size.json", "features.json", "demos.hdf5"


@dataclass(frozen=True)
class ExportOptions:
    """What every part of one export has in common."""

    target: Target
    dataset: str  # name of the new dataset
    layout: Layout
    storage: Storage = "av1"  # images of a LeRobot dataset
    robot: str = ""
    next_obs: bool = True  # of an HDF5 dataset


class Part(Protocol):
    """Takes the episodes of one group; a context manager."""

    def __enter__(self) -> Part: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def add(self, episode: Episode) -> None:
        """Append ``episode``, whose layout and images have been checked."""
        ...


def open_part(folder: Path, options: ExportOptions) -> Part:
    """Return the writer of one group below ``folder``, which exists and is empty."""
    match options.target:
        case "rlds":
            return _RldsPart(folder)
        case "lerobot":
            return LerobotPart(folder, options.layout, options.storage)
        case "hdf5":
            return Hdf5Writer(folder / _DEMOS, next_obs=options.next_obs)
        case "bag":
            return _BagPart(folder)


def merge(parts: Sequence[Path], destination: Path, options: ExportOptions) -> None:
    """Join ``parts``, each with at least one episode, into the dataset at ``destination``."""
    match options.target:
        case "rlds":
            _merge_rlds(parts, destination, options)
        case "lerobot":
            merge_parts(parts, destination, options.layout, options.storage, options.robot)
        case "hdf5":
            with Hdf5Writer(destination / f"{options.dataset}.hdf5") as writer:
                for part in parts:
                    writer.copy(part / _DEMOS)
        case "bag":
            _merge_bags(parts, destination)


class _BagPart:
    """Writes each episode as a bag of its own, named by its place in the part."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def __enter__(self) -> _BagPart:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def add(self, episode: Episode) -> None:
        write_episode(self._folder / f"{self._count:06d}" / "episode", episode)
        self._count += 1


def _merge_bags(parts: Sequence[Path], destination: Path) -> None:
    """Renumber the bags; the file in each of them is called ``episode_0.mcap``."""
    bags = [bag for part in parts for bag in sorted(part.glob("*/episode"))]
    for index, bag in enumerate(bags):
        for file in bag.iterdir():
            place(file, destination / f"episode_{index:06d}" / file.name)


class _RldsPart:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = (folder / _SHARD).open("wb")
        self._lengths = 0
        self._bytes = 0

    def __enter__(self) -> _RldsPart:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        sizes = {"episodes": self._lengths, "bytes": self._bytes}
        (self._folder / _SIZE).write_text(json.dumps(sizes), encoding="utf-8")

    def add(self, episode: Episode) -> None:
        if not self._lengths:
            features = json.dumps(describe_features(episode))
            (self._folder / _FEATURES).write_text(features, encoding="utf-8")
        data = episode_example(episode)
        write_record(self._file, data)
        self._lengths += 1
        self._bytes += len(data)


def _merge_rlds(parts: Sequence[Path], destination: Path, options: ExportOptions) -> None:
    folder = destination / VERSION
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [json.loads((part / _SIZE).read_text(encoding="utf-8")) for part in parts]
    features = json.loads((parts[0] / _FEATURES).read_text(encoding="utf-8"))
    for index, part in enumerate(parts):
        place(part / _SHARD, folder / shard_name(options.dataset, index, len(parts)))
    lengths, totals = [s["episodes"] for s in sizes], [s["bytes"] for s in sizes]
    write_description(folder, options.dataset, features, lengths, totals)
