"""An open rosbag2 recording that other software made: its topics, and their messages in order of time.

One value for every storage (SQLite, MCAP), compression (none, each message, each file) and number of files.
Knows nothing of robots or of what the messages mean; decompressed files lie in a temporary folder.
"""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import zstandard

from openvla_ros.data.foreign_bags.mcap_part import McapPart
from openvla_ros.data.foreign_bags.recording_files import COMPRESSED, RecordingFiles, find_files
from openvla_ros.data.foreign_bags.sqlite_part import SqlitePart
from openvla_ros.data.foreign_bags.stored_message import RecordedTopic, StoredMessage
from openvla_ros.errors import DatasetError
from openvla_ros.integrity.checksums import verify
from openvla_ros.integrity.damage import reading

_ZSTD = b"\x28\xb5\x2f\xfd"  # how each zstd frame begins; a CDR message begins with a zero
_LARGEST = 1 << 30  # bytes of one message
_FOREVER_NS = 2**63 - 1
_BLOCK = 1 << 20


class _Part(Protocol):
    name: str
    topics: list[RecordedTopic]

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def span_ns(self) -> tuple[int, int] | None: ...

    def messages(self, topics: Collection[str], start_ns: int, stop_ns: int) -> Iterator[StoredMessage]: ...

    def close(self) -> None: ...


class Recording:
    """One recording, open for reading. Close it, or use it in ``with``.

    Everything that carries a checksum is compared with it first, and ``metadata.yaml`` with the messages that
    there are. Raises ``DatasetError`` if anything is damaged, missing or of an unknown kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stack = ExitStack()
        try:
            with reading(path):
                self._open(find_files(path))
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every file and remove what was decompressed."""
        self._stack.close()

    def _open(self, found: RecordingFiles) -> None:
        self._parts: list[_Part] = []
        for number, file in enumerate(found.files):
            place = self._decompressed(file) if file.suffix == COMPRESSED else file
            part: _Part = (McapPart if found.storage == "mcap" else SqlitePart)(place, str(file), number)
            self._stack.callback(part.close)
            self._parts.append(part)
        self.notes = tuple(note for part in self._parts for note in part.notes)
        self.topics: Mapping[str, RecordedTopic] = self._join_topics()
        spans = [span for part in self._parts if (span := part.span_ns) is not None]
        if not spans:
            raise DatasetError(f"{found.path} contains no messages")
        self.span_ns = min(first for first, _ in spans), max(last for _, last in spans)
        if found.description is not None:
            self._compare(found.description.counts)
            publishers = found.description.publishers
            self.topics = {
                name: replace(topic, publishers=max(topic.publishers, publishers.get(name, 0)))
                for name, topic in self.topics.items()
            }

    def _decompressed(self, file: Path) -> Path:
        """Return ``file`` decompressed, in a folder that goes with the recording."""
        verify(file)
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="openvla_bag_")))
        target = folder / file.with_suffix("").name
        decoder = zstandard.ZstdDecompressor().decompressobj()
        fed = False
        with file.open("rb") as source, target.open("wb") as sink:
            block = source.read(_BLOCK)
            while block:
                sink.write(decoder.decompress(block))
                fed = True
                rest = decoder.unused_data if decoder.eof else b""
                if decoder.eof and (rest or source.peek(1)):  # several frames in a row
                    decoder = zstandard.ZstdDecompressor().decompressobj()
                    fed = False
                block = rest or source.read(_BLOCK)
        if not decoder.eof or not fed:
            raise DatasetError(f"{file} is truncated: its last zstd frame is incomplete")
        return target

    def _join_topics(self) -> dict[str, RecordedTopic]:
        """Return the topics of all parts; raises ``DatasetError`` if two parts or channels differ on one."""
        joined: dict[str, RecordedTopic] = {}
        for part in self._parts:
            for topic in part.topics:
                known = joined.get(topic.name)
                if known is None:
                    joined[topic.name] = topic
                    continue
                for what in ("type", "encoding", "definition"):
                    mine, other = getattr(known, what), getattr(topic, what)
                    if mine != other and mine and other:
                        raise DatasetError(
                            f"{self.path}: {topic.name} is recorded with two {what}s: {mine!r} and {other!r}"
                        )
                joined[topic.name] = replace(
                    known if known.definition else topic,
                    count=known.count + topic.count,
                    publishers=max(known.publishers, topic.publishers),
                )
        return joined

    def _compare(self, counts: Mapping[str, int]) -> None:
        for name in sorted({*counts, *self.topics}):
            said = counts.get(name, 0)
            found = self.topics[name].count if name in self.topics else 0
            if said != found:
                raise DatasetError(
                    f"{self.path}: metadata.yaml counts {said} messages of {name}; its files hold {found}"
                )

    def messages(
        self, topics: Collection[str], start_ns: int = 0, stop_ns: int = _FOREVER_NS
    ) -> Iterator[StoredMessage]:
        """Yield the messages of ``topics`` received within ``start_ns`` .. ``stop_ns``, oldest first."""
        if not topics:
            return
        with reading(self.path):
            streams = (part.messages(topics, start_ns, stop_ns) for part in self._parts)
            for message in heapq.merge(*streams, key=lambda message: message.received_ns):
                yield _plain(message)


def _plain(message: StoredMessage) -> StoredMessage:
    """Return ``message`` decompressed, where the recorder compressed each one."""
    if bytes(message.data[:4]) != _ZSTD:
        return message
    size = zstandard.frame_content_size(message.data)
    if size > _LARGEST:
        raise DatasetError(f"a message of {message.topic} announces {size} bytes")
    decoder = zstandard.ZstdDecompressor().decompressobj()
    data = decoder.decompress(message.data)
    if not decoder.eof or decoder.unused_data or size not in (-1, len(data)):
        raise DatasetError(f"a compressed message of {message.topic} was cut off")
    return replace(message, data=data)
