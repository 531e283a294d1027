"""RLDS datasets in the layout of TensorFlow Datasets, read without TensorFlow.

A dataset folder ``<name>/<version>/`` holds ``dataset_info.json``, ``features.json`` and shards
``<name>-<split>.tfrecord-00000-of-00001``, or ``.array_record``, with one record per episode. Datasets
written by this package also contain the exact numbers; any other is read with its entry in the table of
conventions.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvla_ros.data.episodes.encoded_images import EncodedFrames
from openvla_ros.data.episodes.episode_columns import build_episode, parse_metadata
from openvla_ros.data.formats.array_record import count_array_records, read_array_record
from openvla_ros.data.formats.rlds_conventions import Convention, find_convention
from openvla_ros.data.formats.rlds_metadata import EXACT
from openvla_ros.data.formats.tf_example import parse_example
from openvla_ros.data.formats.tfds_features import Record, parse_features
from openvla_ros.data.formats.tfrecord import RecordIndex, damaged_records, index_records, read_record
from openvla_ros.errors import ChecksumError, DatasetError
from openvla_ros.integrity.checksums import verify
from openvla_ros.integrity.damage import reading
from openvla_ros.values.episode import Episode

_LOG = logging.getLogger(__name__)
_SMALLEST_RECORD = 16  # bytes: lengths and checksums of an empty one
_PLAUSIBLE = 10_000  # episodes: a file that was cut off may announce as many, and each is then named
_TFRECORD, _ARRAY_RECORD = "tfrecord", "array_record"
INFO, FEATURES = "dataset_info.json", "features.json"


def find_dataset_folder(path: Path) -> Path | None:
    """Return the folder of a TFDS dataset at ``path`` or in its only ``<name>/<version>`` below.

    With several versions the highest is taken, as TFDS does. None if there is no dataset.
    """
    if (path / INFO).is_file() and (path / FEATURES).is_file():
        return path
    found = sorted((f.parent for f in (*path.glob(f"*/{INFO}"), *path.glob(f"*/*/{INFO}"))), key=_version)
    return found[-1] if found and len({f.parent for f in found}) == 1 else None


def _version(folder: Path) -> tuple[int, ...]:
    parts = folder.name.split(".")
    return tuple(int(p) for p in parts) if all(p.isdigit() for p in parts) else (-1,)


@dataclass(frozen=True)
class Shard:
    """One file of a split, and how many episodes it should hold."""

    path: Path
    split: str
    episodes: int


def _read_json(path: Path) -> dict[str, Any]:
    verify(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: no JSON, or no UTF-8
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise DatasetError(f"{path}: contains {type(values).__name__}, not a JSON object")
    return values


def list_shards(folder: Path, info: Mapping[str, Any], split: str | None) -> list[Shard]:
    """Return the files of ``split``, or of every split that has files here; one without any is logged.

    Raises ``DatasetError`` naming the splits that have files here, or the files that are missing.
    """
    file_format = _file_format(folder, info)
    splits: dict[str, list[Shard]] = {}
    for entry in info.get("splits", []):
        counts = [_count(n, f"{folder / INFO}: shardLengths") for n in entry.get("shardLengths", [])]
        template = entry.get("filepathTemplate", "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}")
        names = [
            template.format(
                DATASET=info["name"],
                SPLIT=entry["name"],
                FILEFORMAT=file_format,
                SHARD_X_OF_Y=f"{i:05d}-of-{len(counts):05d}",
                SHARD_INDEX=f"{i:05d}",
                NUM_SHARDS=f"{len(counts):05d}",
            )
            for i in range(len(counts))
        ]
        shards = [Shard(folder / n, entry["name"], c) for n, c in zip(names, counts, strict=True)]
        if shards:
            splits[entry["name"]] = shards
    there = sorted(name for name, shards in splits.items() if any(s.path.is_file() for s in shards))
    if split is not None and split not in there:
        raise DatasetError(f"{folder}: split {split!r} has no files; splits with files: {there}")
    for name in splits.keys() - there if split is None and there else ():
        _LOG.warning("%s: split %r is listed, but all its files are missing; reading %s", folder, name, there)
    wanted = there if split is None else [split]
    chosen = [shard for name, shards in splits.items() if name in wanted for shard in shards]
    missing = [shard.path.name for shard in chosen if not shard.path.is_file()]
    if missing or not chosen:
        raise DatasetError(
            f"{folder}: these files are missing: {missing or 'all shards of every split'}; "
            f"splits with files: {there}"
        )
    for shard in chosen:
        _check_size(shard)
    return chosen


def _file_format(folder: Path, info: Mapping[str, Any]) -> str:
    """Return the format of the files; raises ``DatasetError`` for one of TFDS's others, such as parquet."""
    found = str(info.get("fileFormat", _TFRECORD))
    if found not in (_TFRECORD, _ARRAY_RECORD):
        raise DatasetError(
            f"{folder}: its files are {found}; {_TFRECORD} and {_ARRAY_RECORD} are read. TFDS converts them: "
            f"tfds convert_format --dataset_version_dir={folder} --out_file_format={_TFRECORD} --out_dir=..."
        )
    return found


def _check_size(shard: Shard) -> None:
    """Raise ``DatasetError`` if a file is far too small for its episodes, or should be empty but is not."""
    size = shard.path.stat().st_size
    most = max(size // _SMALLEST_RECORD, _PLAUSIBLE)
    if shard.episodes > most or (size > 0 and shard.episodes == 0):
        raise DatasetError(
            f"{shard.path}: {INFO} says {shard.episodes} episodes, but the file has {size} bytes"
        )


def _count(value: object, origin: str) -> int:
    """Return a number of episodes, which JSON of protocol buffers writes as text."""
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if type(number) is not int or number < 0:
        raise DatasetError(f"{origin} contains {value!r}; it must be whole numbers of episodes, 0 or more")
    return number


class RldsSource:
    """The episodes of one TFDS folder.

    ``convention`` names the entry of the table of conventions; by default it is the dataset's name.
    """

    format = "rlds"

    def __init__(self, path: Path, *, split: str | None = None, convention: str | None = None) -> None:
        folder = find_dataset_folder(path)
        if folder is None:
            raise DatasetError(f"{path}: contains no TFDS dataset ({INFO} and {FEATURES} in one folder)")
        self.path = path
        self.info = _read_json(folder / INFO)
        self.name = str(self.info.get("name", folder.parent.name))
        self._features = parse_features(_read_json(folder / FEATURES), str(folder / FEATURES))
        self._shards = list_shards(folder, self.info, split)
        self._array_record = self.info.get("fileFormat") == _ARRAY_RECORD
        self._indices: dict[Path, RecordIndex] = {}
        self._counts: dict[Path, int] = {}
        self.convention = self._find_convention(convention)

    def _find_convention(self, name: str | None) -> Convention | None:
        own = f"steps/{EXACT}/stamp_ns" in self._features
        return None if own and name is None else find_convention(name or self.name, self._features)

    def __len__(self) -> int:
        return sum(shard.episodes for shard in self._shards)

    def record(self, index: int) -> tuple[str, Record]:
        """Return the episode's id and its undecoded record."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: no episode {index}; there are {len(self)}")
        inside = index
        for shard in self._shards:
            if inside < shard.episodes:
                return f"{self.name}-{shard.split}-{index:06d}", self._read(shard, inside)
            inside -= shard.episodes
        raise AssertionError("the index was checked above")

    def _read(self, shard: Shard, inside: int) -> Record:
        if self._array_record:
            return self._read_array_record(shard, inside)
        if shard.path not in self._indices:
            self._indices[shard.path] = verified_index(shard.path)
        found = self._indices[shard.path]
        whole = found.damage is None
        if inside >= len(found.places) or (whole and len(found.places) != shard.episodes):
            why = found.damage or f"{shard.path}: contains {len(found.places)} records"
            raise DatasetError(f"{why}; {INFO} says {shard.episodes} episodes")
        place = found.places[inside]
        return Record(self._features, parse_example(read_record(place), str(place)), str(place))

    def _read_array_record(self, shard: Shard, inside: int) -> Record:
        if shard.path not in self._counts:
            verify(shard.path)
            self._counts[shard.path] = count_array_records(shard.path)
        if self._counts[shard.path] != shard.episodes:
            raise DatasetError(
                f"{shard.path}: contains {self._counts[shard.path]} records; {INFO} says {shard.episodes} "
                "episodes"
            )
        origin = f"{shard.path} record {inside}"
        data = read_array_record(shard.path, inside)
        return Record(self._features, parse_example(data, origin), origin)

    def __getitem__(self, index: int) -> Episode:
        """Return episode ``index`` with its images undecoded."""
        episode_id, record = self.record(index)
        provenance = {"imported_format": self.format, "imported_path": record.origin}
        with reading(record.origin):
            if self.convention is not None:
                return self.convention.episode(episode_id, record, provenance)
            return read_exact(record, provenance)


def verified_index(path: Path) -> RecordIndex:
    """Return where the records of a shard are, after verifying the shard against SHA256SUMS.

    If it differs because some records have wrong checksums of their own, the others can still be read. Raises
    ``ChecksumError`` if damaged records do not explain the difference: some were moved or replaced.
    """
    found = index_records(path)
    try:
        verify(path)
    except ChecksumError:
        if found.damage is None and not damaged_records(found):
            raise
    return found


def read_exact(record: Record, provenance: Mapping[str, str]) -> Episode:
    """Return the episode of a record that ``rlds_writer`` wrote."""
    metadata = parse_metadata(record.text(f"episode_metadata/{EXACT}"), record.origin)
    names = ("stamp_ns", "action", "intervention", "joint_positions", "pose", "gripper")
    columns = {
        name: record.array(f"steps/{EXACT}/{name}") for name in names if f"steps/{EXACT}/{name}" in record
    }
    images = {
        camera: EncodedFrames(record.blobs(f"steps/observation/image_{camera}"), f"{record.origin} {camera}")
        for camera in metadata["cameras"]
    }
    return build_episode(metadata, columns, images, provenance)
