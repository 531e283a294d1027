"""A rosbag2 folder: its MCAP file, and whether ``metadata.yaml`` describes that file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from openvla_ros.data.bags.mcap_reader import McapFile
from openvla_ros.errors import DatasetError
from openvla_ros.integrity.checksums import verify
from openvla_ros.integrity.damage import reading

METADATA = "metadata.yaml"


def bag_folders(path: Path) -> list[Path]:
    """Return the bags at ``path``: itself, its ``.mcap`` files, or its finished sub-folders by name.

    A folder with either ``metadata.yaml`` or an ``.mcap`` file counts, so that one that has lost the other is
    reported when it is read, not skipped.
    """
    if path.is_file() or (path / METADATA).is_file():
        return [path]
    files = sorted(path.glob("*.mcap"))
    if files:
        return files if len(files) > 1 else [path]
    found = {f.parent for name in (METADATA, "*.mcap") for f in path.glob(f"*/{name}")}
    return sorted(folder for folder in found if "." not in folder.name)


def mcap_in(path: Path) -> Path:
    """Return the MCAP file of a bag's folder; raises ``DatasetError`` unless there is exactly one."""
    if path.is_file():
        return path
    files = sorted(path.glob("*.mcap"))
    if len(files) != 1:
        raise DatasetError(
            f"{path} contains {len(files)} .mcap files; an episode has one (openvla import-bag reads "
            "other recordings)"
        )
    return files[0]


def open_verified(path: Path, *, unfinished: bool = False) -> McapFile:
    """Return the MCAP file of a bag, verified against every checksum and its ``metadata.yaml``.

    ``path`` is the bag's folder, or the file alone. With ``unfinished`` a truncated file is returned as far
    as it goes. Raises ``DatasetError`` for a file that is truncated, damaged or not the one that
    ``metadata.yaml`` describes.
    """
    place = mcap_in(path)
    bytes_verified = verify(place)
    file = McapFile(place)
    if unfinished and not file.finished and not file.damage:
        return file
    try:
        file.verify(bytes_verified=bytes_verified)
        if path.is_dir():
            check_metadata(path, file)
    except DatasetError as error:
        problem = str(error)  # the error itself would keep views into the file, and so the file, open
    else:
        return file
    file.close()
    raise DatasetError(problem)


def check_metadata(folder: Path, file: McapFile) -> None:
    """Raise ``DatasetError`` unless ``folder``/metadata.yaml describes ``file``."""
    path = folder / METADATA
    if not path.is_file():
        raise DatasetError(
            f"{folder} has no {METADATA} next to {file.path.name}; ros2 bag reindex recreates it"
        )
    verify(path)
    with reading(path):
        said = yaml.safe_load(path.read_text(encoding="utf-8"))["rosbag2_bagfile_information"]
        names = [Path(str(name)).name for name in said["relative_file_paths"]]
        if names != [file.path.name]:
            raise DatasetError(f"{path} lists the files {names}; the folder has {file.path.name}")
        for what, value, found in _described(said, file):
            if value != found:
                raise DatasetError(f"{path}: {what} is {value!r}; {file.path.name} has {found!r}")


def _described(said: dict[str, Any], file: McapFile) -> list[tuple[str, object, object]]:
    """Return (name, stated value, found value) for everything that both files contain."""
    counts: Counter[str] = Counter()
    for channel in file.channels:
        counts[channel.topic] += len(file.times_ns(channel.id))
    times = [t[[0, -1]] for channel in file.channels if len(t := file.times_ns(channel.id))]
    first = min((int(t[0]) for t in times), default=0)
    last = max((int(t[1]) for t in times), default=0)
    stated = {
        str(entry["topic_metadata"]["name"]): entry["message_count"]
        for entry in said["topics_with_message_count"]
    }
    rows: list[tuple[str, object, object]] = [
        ("message_count", said["message_count"], counts.total()),
        ("starting_time", said["starting_time"]["nanoseconds_since_epoch"], first),
        ("duration", said["duration"]["nanoseconds"], last - first),
        ("the list of topics", sorted(stated), sorted(counts)),
    ]
    return rows + [(f"message_count of {topic}", stated.get(topic), count) for topic, count in counts.items()]
