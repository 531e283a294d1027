"""Writes a crash-safe rosbag2 folder: one MCAP file and its ``metadata.yaml``.

The result opens in ``ros2 bag info`` and ``play``, Foxglove and ``rosbags``. Messages are passed in
serialised (CDR), as a raw subscription delivers them. Knows nothing of nodes, of episodes or of what
the topics mean.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from openvla_ros.data.bags.mcap_writer import McapStream
from openvla_ros.errors import DatasetError

# The layout of metadata.yaml up to Humble, which every later rosbag2 reads as well: quality of
# service as text with the numbers of rmw. Version 9 (Jazzy) spells names and stops Humble.
METADATA_VERSION = 5
_UNLIMITED = {"sec": 2147483647, "nsec": 4294967295}  # how rosbag2 writes "no deadline"


@dataclass(frozen=True)
class QualityOfService:
    """The QoS that a recorded topic's publisher offered, so that playback offers the same."""

    reliability: Literal["reliable", "best_effort"] = "reliable"
    durability: Literal["volatile", "transient_local"] = "volatile"
    depth: int = 10


@dataclass(frozen=True)
class Topic:
    """A topic of a recording: full name, type, and the type's definition (``ros2msg``)."""

    name: str
    type: str  # package/msg/Type
    definition: str
    qos: tuple[QualityOfService, ...] = ()


class BagWriter:
    """Writes one bag into ``folder``, which must not hold one yet; not safe to share between threads.

    Every method raises ``DatasetError`` with the system's reason if writing fails; everything flushed
    before stays readable, and the call may be repeated once there is space.
    """

    def __init__(self, folder: Path, chunk_bytes: int = 4 << 20, flush_s: float = 0.5) -> None:
        self.folder = folder
        name = folder.name.partition(".")[0]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatasetError(f"cannot create {folder}: {error.strerror}") from error
        self._stream = McapStream(folder / f"{name}_0.mcap", "ros2", chunk_bytes, flush_s)
        self._topics: dict[int, Topic] = {}
        self._schemas: dict[str, int] = {}
        self._closed = False

    @property
    def path(self) -> Path:
        """The MCAP file."""
        return self._stream.path

    @property
    def bytes_written(self) -> int:
        """Bytes written to the file so far."""
        return self._stream.bytes_written

    @property
    def message_count(self) -> int:
        """Messages given so far."""
        return self._stream.message_count

    def add_topic(self, topic: Topic) -> int:
        """Add a topic; return its number for ``write``."""
        if any(known.name == topic.name for known in self._topics.values()):
            raise DatasetError(f"topic {topic.name} is already in {self.folder}")
        if topic.type not in self._schemas:
            schema = self._stream.add_schema(topic.type, "ros2msg", topic.definition.encode())
            self._schemas[topic.type] = schema
        number = self._stream.add_channel(
            topic.name, self._schemas[topic.type], "cdr", {"offered_qos_profiles": dump_qos(topic.qos)}
        )
        self._topics[number] = topic
        return number

    def write(self, topic: int, data: bytes | memoryview, received_ns: int, sent_ns: int) -> None:
        """Add one serialised message; it is flushed within ``flush_s`` and ``chunk_bytes``."""
        self._stream.write(topic, data, received_ns, sent_ns)

    def add_metadata(self, name: str, values: Mapping[str, str]) -> None:
        """Store ``values`` as a metadata record in the MCAP file, immediately."""
        self._stream.add_metadata(name, values)

    def flush(self) -> None:
        """Write everything that is buffered to the file."""
        self._stream.flush()

    def flush_if_due(self) -> None:
        """Flush if something has been buffered for ``flush_s``."""
        self._stream.flush_if_due()

    def close(self) -> None:
        """Finish the file and write ``metadata.yaml``. Safe to call twice."""
        if self._closed:
            return
        text = yaml.safe_dump(self._metadata(), sort_keys=False)
        self._stream.add_metadata("rosbag2", {"serialized_metadata": text})
        self._stream.close()
        write_durably(self.folder / "metadata.yaml", text)
        self._closed = True

    def abandon(self) -> None:
        """Close the file as it is; it can be recovered later."""
        self._stream.abandon()
        self._closed = True

    def _metadata(self) -> dict[str, Any]:
        first, last = self._stream.time_range_ns
        counts = self._stream.counts
        start, duration = {"nanoseconds_since_epoch": first}, {"nanoseconds": last - first}
        topics = [
            {
                "topic_metadata": {
                    "name": topic.name,
                    "type": topic.type,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": dump_qos(topic.qos),
                },
                "message_count": counts[number],
            }
            for number, topic in self._topics.items()
        ]
        file = {
            "path": self.path.name,
            "starting_time": start,
            "duration": duration,
            "message_count": self.message_count,
        }
        return {
            "rosbag2_bagfile_information": {
                "version": METADATA_VERSION,
                "storage_identifier": "mcap",
                "duration": dict(duration),
                "starting_time": dict(start),
                "message_count": self.message_count,
                "topics_with_message_count": topics,
                "compression_format": "",
                "compression_mode": "",
                "relative_file_paths": [self.path.name],
                "files": [file],
            }
        }


def dump_qos(offers: Sequence[QualityOfService]) -> str:
    """Return QoS offers in rosbag2's format up to Iron: YAML text with rmw's enum values."""
    if not offers:
        return ""
    return yaml.safe_dump(
        [
            {
                "history": 1,
                "depth": offer.depth,
                "reliability": 1 if offer.reliability == "reliable" else 2,
                "durability": 1 if offer.durability == "transient_local" else 2,
                "deadline": dict(_UNLIMITED),
                "lifespan": dict(_UNLIMITED),
                "liveliness": 1,
                "liveliness_lease_duration": dict(_UNLIMITED),
                "avoid_ros_namespace_conventions": False,
            }
            for offer in offers
        ],
        sort_keys=False,
    )


def parse_qos(text: str) -> tuple[QualityOfService, ...]:
    """Return the QoS offers in ``text``, written by ``dump_qos`` or by any version of rosbag2."""
    return tuple(
        QualityOfService(
            reliability="reliable" if item["reliability"] in (1, "reliable") else "best_effort",
            durability="transient_local" if item["durability"] in (1, "transient_local") else "volatile",
            depth=int(item["depth"]),
        )
        for item in yaml.safe_load(text) or ()
    )


def write_durably(path: Path, text: str) -> None:
    """Write a small file atomically and durably: after a crash it is complete or absent."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise DatasetError(f"cannot write {path}: {error.strerror}") from error


def sync_folder(folder: Path) -> None:
    """Fsync ``folder``."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
