"""Which files make up a rosbag2 recording, and what its ``metadata.yaml`` says of them.

A recording is a folder with one storage file or several (it was split), or a single storage file. Without
``metadata.yaml`` the files are put in order by the number at the end of their names, which must leave no
gap: a missing part would be a hole in time that nobody sees.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from openvla_ros.errors import DatasetError
from openvla_ros.integrity.checksums import verify
from openvla_ros.integrity.damage import reading

Storage = Literal["mcap", "sqlite3"]
METADATA, COMPRESSED = "metadata.yaml", ".zstd"
_STORAGE: dict[str, Storage] = {".mcap": "mcap", ".db3": "sqlite3"}
_NUMBERED = re.compile(r"^(.*)_(\d+)$")


@dataclass(frozen=True)
class Description:
    """What ``metadata.yaml`` says; the files must confirm it."""

    counts: Mapping[str, int]  # messages by topic
    publishers: Mapping[str, int]  # by topic: how many offers of a publisher its recorder noted


@dataclass(frozen=True)
class RecordingFiles:
    """The storage files of one recording in order of time; those ending in ``.zstd`` are compressed."""

    path: Path
    storage: Storage
    files: tuple[Path, ...]
    description: Description | None = None


def is_recording(path: Path) -> bool:
    """Return whether ``path`` is a rosbag2 storage file or a folder that holds one."""
    if path.is_file():
        return _kind(path) is not None
    return path.is_dir() and bool(_storage_files(path))


def find_files(path: Path) -> RecordingFiles:
    """Return the files of the recording at ``path``, a folder or one file.

    Raises ``DatasetError`` if there is none, a part is missing, the folder holds files of two recordings,
    or the compression is not zstd.
    """
    if path.is_file():
        kind = _kind(path)
        if kind is None:
            raise DatasetError(f"{path} is not a rosbag2 storage file (.mcap or .db3, compressed .zstd)")
        return RecordingFiles(path, kind, (path,))
    if not path.is_dir():
        raise DatasetError(f"{path} does not exist")
    if (path / METADATA).is_file():
        return _described(path)
    files = _storage_files(path)
    if not files:
        raise DatasetError(f"{path} contains no rosbag2 storage file (.mcap or .db3, compressed .zstd)")
    return RecordingFiles(path, _one_kind(path, files), tuple(_in_order(path, files)))


def _kind(path: Path) -> Storage | None:
    plain = path.with_suffix("") if path.suffix == COMPRESSED else path
    return _STORAGE.get(plain.suffix)


def _storage_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and _kind(file))


def _one_kind(folder: Path, files: list[Path]) -> Storage:
    kinds = {kind for file in files if (kind := _kind(file))}
    if len(kinds) != 1:
        names = ", ".join(file.name for file in files)
        raise DatasetError(f"{folder} holds files of two kinds of storage; name one: {names}")
    return kinds.pop()


def _in_order(folder: Path, files: list[Path]) -> list[Path]:
    """Return split files by number; raises ``DatasetError`` if they are not parts of one recording."""
    if len(files) == 1:
        return files
    numbers: dict[int, Path] = {}
    stems = set()
    for file in files:
        match = _NUMBERED.match(file.name.split(".")[0])
        if match is None or int(match[2]) in numbers:
            names = ", ".join(file.name for file in files)
            raise DatasetError(
                f"{folder} has no {METADATA}, and its files are not the numbered parts of one recording "
                f"({names}); name one of them"
            )
        numbers[int(match[2])] = file
        stems.add(match[1])
    if len(stems) > 1:
        raise DatasetError(
            f"{folder} holds parts of several recordings ({', '.join(sorted(stems))}) and no {METADATA}"
        )
    order = sorted(numbers)
    lost = sorted(set(range(order[0], order[-1])) - set(order))
    if lost:
        raise DatasetError(f"{folder}: part {lost[0]} of a split recording is missing; there are {order}")
    return [numbers[number] for number in order]


def _described(folder: Path) -> RecordingFiles:
    path = folder / METADATA
    verify(path)
    with reading(path):
        said = yaml.safe_load(path.read_text(encoding="utf-8"))["rosbag2_bagfile_information"]
        storage, names = str(said["storage_identifier"]), [str(n) for n in said["relative_file_paths"]]
        form = str(said.get("compression_format") or "")
        counts: dict[str, int] = {}
        publishers: dict[str, int] = {}
        for entry in said["topics_with_message_count"]:
            topic = entry["topic_metadata"]
            name = str(topic["name"])
            counts[name] = counts.get(name, 0) + int(entry["message_count"])
            publishers[name] = count_offers(topic.get("offered_qos_profiles"))
        if sum(counts.values()) != int(said["message_count"]):
            raise DatasetError(
                f"{path}: message_count is {said['message_count']}; topics add up to {sum(counts.values())}"
            )
    if storage not in _STORAGE.values():
        raise DatasetError(f"{path}: storage {storage!r} is not one of {', '.join(_STORAGE.values())}")
    if form and form != "zstd":
        raise DatasetError(f"{path}: compression {form!r} is not supported; zstd is")
    files = [folder / Path(name).name for name in names]
    lost = [file.name for file in files if not file.is_file()]
    if lost or not files:
        raise DatasetError(f"{folder}: {METADATA} names files that are missing: {', '.join(lost) or 'none'}")
    more = [file.name for file in _storage_files(folder) if file not in files]
    if more:
        raise DatasetError(f"{folder} holds files that its {METADATA} does not name: {', '.join(more)}")
    kind: Storage = "mcap" if storage == "mcap" else "sqlite3"
    return RecordingFiles(folder, kind, tuple(files), Description(counts, publishers))


def count_offers(profiles: object) -> int:
    """Return how many publishers' quality of service ``offered_qos_profiles`` lists; 0 if it tells none.

    Up to Iron it is YAML text inside the YAML, later a list. Its content is not looked at: converters
    write values there that rosbag2 does not know.
    """
    if isinstance(profiles, str):
        try:
            profiles = yaml.safe_load(profiles)
        except yaml.YAMLError:
            return 0
    return len(profiles) if isinstance(profiles, list) else 0
