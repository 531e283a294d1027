"""Random access to any MCAP file, complete or truncated, without loading its messages.

The file is mapped into memory and its record headers are scanned once; a message is read only when it
is requested. What follows the last complete record of a truncated file is read message by message.
Knows nothing of ROS or of episodes.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from types import MappingProxyType

import numpy as np
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, Metadata, Schema

from openvla_ros.data.bags.mcap_checks import (
    RECORD,
    check_attachment,
    check_channels,
    check_counts,
    check_data_section,
    read_summary,
)
from openvla_ros.data.bags.mcap_writer import CHUNK, MAGIC, MESSAGE, MESSAGE_FIELDS
from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.integrity.checksums import say_unverified
from openvla_ros.integrity.damage import reading
from openvla_ros.values.arrays import Int, read_only

_CHUNK_FIELDS = struct.Struct("<QQQII")  # first, last, size, crc, length of the compression's name
_CACHED_CHUNKS = 4  # decompressed chunks kept in memory
_LARGEST_CHUNK = 2 << 30  # bytes; writers make chunks of a few megabytes


@dataclass(frozen=True)
class ChannelInfo:
    """One topic of a file: its type, the definition of that type, and what the writer noted."""

    id: int
    topic: str
    type: str
    definition: str  # text of the schema, "" if the file has none
    definition_encoding: str  # "ros2msg", "ros2idl", ...
    encoding: str  # of the messages: "cdr"
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Message:
    """One stored message; ``data`` is a view into the file."""

    channel: ChannelInfo
    log_ns: int  # when it was received
    publish_ns: int  # when it was sent
    data: memoryview


@dataclass(frozen=True)
class _Chunk:
    start: int  # of its data, in the file
    stored: int
    size: int
    compression: str
    crc: int


class McapFile:
    """One MCAP file, open for reading. Close it, or use it in ``with``.

    Raises ``DatasetError`` if it cannot be opened or is not MCAP. ``finished`` says whether the writer
    closed it, ``damage`` describes the first record that could not be parsed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.finished = False
        self.damage: str | None = None
        self._channels: dict[int, ChannelInfo] = {}
        self._schemas: dict[int, Schema] = {}
        self._metadata: dict[str, Mapping[str, str]] = {}
        self._chunks: list[_Chunk] = []
        self._found: dict[int, list[tuple[int, int, int]]] = {}  # channel: log time, chunk, offset
        self._attachments: list[tuple[int, int]] = []  # first byte of its content, and the one behind it
        self._data_end = 0  # where the record that ends the data section begins
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise DatasetError(f"cannot read {path}: {error}") from error
        self._view = memoryview(self._map)
        if bytes(self._view[: len(MAGIC)]) != MAGIC:
            self.close()
            raise DatasetError(f"{path} is not an MCAP file")
        self._decompressed = lru_cache(_CACHED_CHUNKS)(self._decompress)
        self._scan()
        self._order: dict[int, tuple[Int, Int]] = {}

    def __enter__(self) -> McapFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the file. Views of messages that are still held keep it mapped."""
        try:
            self._view.release()
            self._map.close()
        except BufferError:  # a message is still in use: the last view closes the map
            return

    @property
    def channels(self) -> tuple[ChannelInfo, ...]:
        """Every channel, in the order of the file."""
        return tuple(self._channels.values())

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        """The metadata records by name; of two with one name, the later."""
        return MappingProxyType(self._metadata)

    def channel(self, topic: str) -> ChannelInfo | None:
        """Return the channel of ``topic``, or ``None``."""
        return next((c for c in self._channels.values() if c.topic == topic), None)

    def times_ns(self, channel: int) -> Int:
        """Return the log times of a channel's messages (N,), in order of time."""
        return self._ordered(channel)[0]

    def message(self, channel: int, index: int) -> Message:
        """Return message ``index`` of a channel, in order of time."""
        log_ns, chunk, offset = self._found[channel][self._ordered(channel)[1][index]]
        return self._read(chunk, offset, log_ns)

    def __iter__(self) -> Iterator[Message]:
        """Yield every message in the order of their log times; those of one time as they were written."""
        entries = [(log, chunk, offset) for found in self._found.values() for log, chunk, offset in found]
        for log_ns, chunk, offset in sorted(entries):
            yield self._read(chunk, offset, log_ns)

    def _ordered(self, channel: int) -> tuple[Int, Int]:
        if channel not in self._order:
            times = np.array([log for log, _, _ in self._found.get(channel, ())], dtype=np.int64)
            order = np.argsort(times, kind="stable")
            self._order[channel] = (read_only(times[order]), order)
        return self._order[channel]

    def _read(self, chunk: int, offset: int, log_ns: int) -> Message:
        data = self._chunk_data(chunk)
        try:
            opcode, length, channel, _, log, publish = MESSAGE.unpack_from(data, offset)
        except struct.error as error:
            raise DatasetError(f"{self.path}: the index of chunk {chunk} points past its end") from error
        whole = channel in self._channels and offset + 9 + length <= len(data)
        if opcode != Opcode.MESSAGE or log != log_ns or not whole:
            raise DatasetError(f"{self.path}: the index of chunk {chunk} does not point to a message")
        start = offset + MESSAGE.size
        return Message(self._channels[channel], log, publish, data[start : offset + 9 + length])

    def _chunk_data(self, chunk: int) -> memoryview:
        found = self._chunks[chunk]
        if not found.compression:
            return self._view[found.start : found.start + found.size]
        return self._decompressed(chunk)

    def _decompress(self, chunk: int) -> memoryview:
        found = self._chunks[chunk]
        stored = self._view[found.start : found.start + found.stored]
        match found.compression:
            case "zstd":
                import zstandard

                data = zstandard.ZstdDecompressor().decompress(stored, max_output_size=found.size)
            case "lz4":
                import lz4.frame

                data = lz4.frame.decompress(stored)
            case _:
                raise DatasetError(
                    f"{self.path}: chunk {chunk} is compressed with {found.compression!r}; "
                    "zstd and lz4 are supported"
                )
        return memoryview(data)

    def verify(self, *, bytes_verified: bool = False) -> None:
        """Verify the whole file: checksums, message counts and the copies in the summary.

        ``bytes_verified``: the file's own checksum was verified elsewhere. Raises ``DatasetError`` if the
        file is truncated or anything differs. Parts without a checksum are logged once.
        """
        if self.damage or not self.finished:
            raise DatasetError(f"{self.path}: {self.damage or 'the file is truncated'}")
        origin = str(self.path)
        summary = read_summary(self._view, self._data_end, origin)
        if not check_data_section(self._view, self._data_end, origin) and not bytes_verified:
            for start, end in self._attachments:
                check_attachment(self._view[start:end], origin)
            for number in range(len(self._chunks)):
                self._check_chunk(number)
            self._check_index()
            check_channels(summary, self._schemas, {c.id: c.topic for c in self.channels}, origin)
            some = "some chunks" if any(not chunk.crc for chunk in self._chunks) else "metadata records"
            say_unverified(origin, f"{some} in this file have no checksum")
        counts = {channel: len(found) for channel, found in self._found.items()}
        check_counts(summary, counts, len(self._chunks), origin)

    def _check_chunk(self, number: int) -> None:
        crc = self._chunks[number].crc
        if crc and zlib.crc32(self._chunk_data(number)) != crc:
            raise DatasetError(f"{self.path}: chunk {number} is damaged (its checksum is wrong)")

    def _check_index(self) -> None:
        """Compare the indexes after the chunks, which have no checksum, with the chunks' contents."""
        indexed = {channel: sorted(entries) for channel, entries in self._found.items() if entries}
        bare = {number for number, chunk in enumerate(self._chunks) if not chunk.start}
        self._found = {c: [e for e in entries if e[1] in bare] for c, entries in self._found.items()}
        for number in range(len(self._chunks)):
            if number not in bare:
                self._messages(0, len(self._chunk_data(number)), number)
        if indexed != {channel: sorted(entries) for channel, entries in self._found.items() if entries}:
            raise DatasetError(f"{self.path} is damaged (the message index does not match the messages)")

    def drop_damaged_chunks(self) -> list[str]:
        """Drop the messages of chunks with a wrong checksum, to save the rest; return what was wrong."""
        dropped = []
        for number in range(len(self._chunks)):
            try:
                self._check_chunk(number)
            except DatasetError as error:
                dropped.append(str(error))
                for channel, entries in self._found.items():
                    self._found[channel] = [entry for entry in entries if entry[1] != number]
        self._order.clear()
        return dropped

    def _scan(self) -> None:
        position = len(MAGIC)
        end = len(self._view)
        while position + RECORD.size <= end:
            opcode, length = RECORD.unpack_from(self._view, position)
            body = position + RECORD.size
            if body + length > end:
                self._partial(opcode, body)
                return
            try:
                with reading(f"record {opcode} at byte {position}"):
                    position = self._record(opcode, body, length)
            except (DatasetError, InvalidValueError) as error:
                self.damage = str(error)
                return
            if opcode in (Opcode.DATA_END, Opcode.FOOTER):
                self._data_end = position - RECORD.size - length
                self.finished = bytes(self._view[-len(MAGIC) :]) == MAGIC
                return

    def _record(self, opcode: int, body: int, length: int) -> int:
        """Index one complete record; return where the next begins."""
        after = body + length
        match opcode:
            case Opcode.SCHEMA:
                schema = Schema.read(self._stream(body, after))
                self._schemas[schema.id] = schema
            case Opcode.CHANNEL:
                self._add_channel(Channel.read(self._stream(body, after)))
            case Opcode.METADATA:
                metadata = Metadata.read(self._stream(body, after))
                self._metadata[metadata.name] = MappingProxyType(metadata.metadata)
            case Opcode.MESSAGE:  # a file without chunks: the rest of it is one
                self._chunks.append(_Chunk(0, len(self._view), len(self._view), "", 0))
                self._messages(body - RECORD.size, after)
            case Opcode.ATTACHMENT:
                self._attachments.append((body, after))
            case Opcode.CHUNK:
                return self._chunk(body, after)
        return after

    def _chunk(self, body: int, after: int) -> int:
        _, _, size, crc, name = _CHUNK_FIELDS.unpack_from(self._view, body)
        start = body + _CHUNK_FIELDS.size + name
        compression = str(self._view[start - name : start], "ascii")
        (stored,) = struct.unpack_from("<Q", self._view, start)
        if start + 8 + stored != after or (not compression and size != stored) or size > _LARGEST_CHUNK:
            raise DatasetError(
                f"a chunk of {after - body} bytes claims to contain {stored} bytes ({size} uncompressed)"
            )
        self._chunks.append(_Chunk(start + 8, stored, size, compression, crc))
        number = len(self._chunks) - 1
        position, indexes = self._indexes(after)
        if indexes and self._declared(indexes):
            for channel, entries in indexes.items():
                self._found.setdefault(channel, []).extend((t, number, at) for t, at in entries)
        else:  # the index was cut off, or the chunk declares channels: look inside
            self._messages(0, len(self._chunk_data(number)))
        return position

    def _declared(self, channels: Mapping[int, object]) -> bool:
        return all(channel in self._channels for channel in channels)

    def _indexes(self, position: int) -> tuple[int, dict[int, list[tuple[int, int]]]]:
        """Return the message indexes that follow a chunk, and where they end."""
        found: dict[int, list[tuple[int, int]]] = {}
        while position + RECORD.size + 6 <= len(self._view):
            opcode, length = RECORD.unpack_from(self._view, position)
            body = position + RECORD.size
            if opcode != Opcode.MESSAGE_INDEX:
                return position, found
            if body + length > len(self._view):
                return position, {}
            channel, size = struct.unpack_from("<HI", self._view, body)
            pairs = np.frombuffer(self._view, dtype="<u8", count=size // 8, offset=body + 6)
            found[channel] = [(int(t), int(at)) for t, at in pairs.reshape(-1, 2)]
            position = body + length
        return position, found

    def _partial(self, opcode: int, body: int) -> None:
        """Index what is there of the last record, if it is an uncompressed chunk."""
        if opcode != Opcode.CHUNK or body + _CHUNK_FIELDS.size + 8 > len(self._view):
            return
        if _CHUNK_FIELDS.unpack_from(self._view, body)[-1]:
            return
        start = body - RECORD.size + CHUNK.size
        size = len(self._view) - start
        self._chunks.append(_Chunk(start, size, size, "", 0))
        self._messages(0, size)

    def _messages(self, position: int, end: int, number: int = -1) -> None:
        """Walk the records of a chunk's data, by default the newest's, from ``position`` to ``end``."""
        number = number % len(self._chunks)
        data = self._chunk_data(number)
        while position + RECORD.size <= end:
            opcode, length = RECORD.unpack_from(data, position)
            after = position + RECORD.size + length
            if after > len(data) or (opcode == Opcode.MESSAGE and length < MESSAGE_FIELDS):
                return
            inner = data[position + RECORD.size : after]
            if opcode == Opcode.SCHEMA:
                schema = Schema.read(ReadDataStream(BytesIO(inner)))
                self._schemas[schema.id] = schema
            elif opcode == Opcode.CHANNEL:
                self._add_channel(Channel.read(ReadDataStream(BytesIO(inner))))
            elif opcode == Opcode.MESSAGE:
                _, _, channel, _, log_ns, _ = MESSAGE.unpack_from(data, position)
                if channel not in self._channels:
                    return
                self._found.setdefault(channel, []).append((log_ns, number, position))
            position = after

    def _stream(self, start: int, end: int) -> ReadDataStream:
        return ReadDataStream(BytesIO(self._view[start:end]))

    def _add_channel(self, channel: Channel) -> None:
        if channel.id in self._channels:
            return
        schema = self._schemas.get(channel.schema_id)
        self._channels[channel.id] = ChannelInfo(
            id=channel.id,
            topic=channel.topic,
            type=schema.name if schema else "",
            definition=schema.data.decode() if schema else "",
            definition_encoding=schema.encoding if schema else "",
            encoding=channel.message_encoding,
            metadata=MappingProxyType(dict(channel.metadata)),
        )
