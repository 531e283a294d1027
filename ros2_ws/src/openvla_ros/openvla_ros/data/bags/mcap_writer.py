"""Writes an MCAP file while the robot moves: whole chunks, without copying messages.

Layout as in the MCAP specification (https://mcap.dev/spec): messages are collected in uncompressed
chunks, each followed by its message indexes, and a summary ends the file. What ``flush`` has written
survives a crash of this process; ``mcap_reader`` reads it with or without the summary. Knows nothing of
ROS or of episodes.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Mapping
from pathlib import Path

from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import (
    Channel,
    ChunkIndex,
    DataEnd,
    Footer,
    Header,
    McapRecord,
    MessageIndex,
    Metadata,
    MetadataIndex,
    Schema,
    Statistics,
    SummaryOffset,
)

from openvla_ros.errors import DatasetError
from openvla_ros.integrity.crc import join_crc32
from openvla_ros.integrity.disk import free_space

MAGIC = b"\x89MCAP0\r\n"
MESSAGE = struct.Struct("<BQHIQQ")  # opcode, length, channel, sequence, log time, publish time
MESSAGE_FIELDS = MESSAGE.size - 9  # what the record's length counts besides the data
CHUNK = struct.Struct("<BQQQQIIQ")  # opcode, length, first, last, size, crc, no compression, data size
_NO_SPAN = (1 << 63, 0)
_GATHER = 512  # buffers handed to one writev; IOV_MAX is 1024 on Linux


def _bytes(record: McapRecord) -> bytes:
    builder = RecordBuilder()
    record.write(builder)
    return bytes(builder.end())


def _cannot_write(path: Path, error: OSError) -> str:
    return f"cannot write {path}: {error.strerror} ({free_space(path)})"


class McapStream:
    """Writes one MCAP file; not safe to share between threads.

    ``chunk_bytes`` and ``flush_s`` limit how much is buffered. Every method that writes raises
    ``DatasetError`` naming the file and the system's reason, and leaves the file as it was before that
    write: data that was flushed earlier stays intact.
    """

    def __init__(self, path: Path, profile: str, chunk_bytes: int = 4 << 20, flush_s: float = 0.5) -> None:
        self.path = path
        self._chunk_bytes, self._flush_s = chunk_bytes, flush_s
        self._schemas: list[Schema] = []
        self._channels: list[Channel] = []
        self._chunks: list[ChunkIndex] = []
        self._metadata: list[MetadataIndex] = []
        self._counts: dict[int, int] = {}
        self.message_count = 0  # messages given, flushed or not
        self._range = (0, 0)  # log times of the first and last message
        self._span = _NO_SPAN  # log times of the chunk's first and last message
        self._crc = 0  # of the data section so far
        self._begin_chunk()
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DatasetError(f"cannot create {path}: {error.strerror}") from error
        self._closed = False
        self.bytes_written = 0
        try:
            self._append_data(MAGIC + _bytes(Header(profile=profile, library="openvla_ros")))
        except DatasetError:
            self.abandon()
            raise

    @property
    def counts(self) -> dict[int, int]:
        """Messages by channel number."""
        return dict(self._counts)

    @property
    def time_range_ns(self) -> tuple[int, int]:
        """Log times of the first and the last message; 0, 0 without any."""
        return self._range

    def add_schema(self, name: str, encoding: str, data: bytes) -> int:
        """Write a schema; return its number."""
        schema = Schema(id=len(self._schemas) + 1, name=name, encoding=encoding, data=data)
        self.flush()
        self._append_data(_bytes(schema))
        self._schemas.append(schema)
        return len(self._schemas)

    def add_channel(self, topic: str, schema: int, encoding: str, metadata: Mapping[str, str]) -> int:
        """Write a channel; return its number."""
        channel = Channel(
            id=len(self._channels) + 1,
            topic=topic,
            message_encoding=encoding,
            schema_id=schema,
            metadata=dict(metadata),
        )
        self.flush()
        self._append_data(_bytes(channel))
        self._channels.append(channel)
        self._counts[channel.id] = 0
        return len(self._channels)

    def add_metadata(self, name: str, values: Mapping[str, str]) -> None:
        """Write a metadata record immediately; of two with one name, readers use the later."""
        self.flush()
        record = _bytes(Metadata(name=name, metadata=dict(values)))
        offset = self.bytes_written
        self._append_data(record)
        self._metadata.append(MetadataIndex(offset=offset, length=len(record), name=name))

    def write(self, channel: int, data: bytes | memoryview, log_ns: int, publish_ns: int) -> None:
        """Add a message; it reaches the file with the next flush.

        ``data`` is kept, not copied, until then. Flushes when the chunk is full or old.
        """
        sequence = self._counts[channel]
        head = MESSAGE.pack(
            Opcode.MESSAGE, MESSAGE_FIELDS + len(data), channel, sequence & 0xFFFFFFFF, log_ns, publish_ns
        )
        self._index.setdefault(channel, []).append((log_ns, self._size))
        self._buffers += (head, data)
        self._size += len(head) + len(data)
        self._counts[channel] = sequence + 1
        self.message_count += 1
        self._span = (min(self._span[0], log_ns), max(self._span[1], log_ns))
        first, last = self._range
        self._range = (log_ns, log_ns) if self.message_count == 1 else (min(first, log_ns), max(last, log_ns))
        if self._size >= self._chunk_bytes:
            self.flush()
        else:
            self.flush_if_due()

    def flush_if_due(self) -> None:
        """Flush if the oldest buffered message is ``flush_s`` seconds old."""
        if self._buffers and time.monotonic() - self._begun >= self._flush_s:
            self.flush()

    def flush(self) -> None:
        """Write every buffered message to the file, as one chunk."""
        if not self._buffers:
            self._begun = time.monotonic()
            return
        crc = 0
        for buffer in self._buffers:
            crc = zlib.crc32(buffer, crc)
        (first, last), size = self._span, self._size
        head = CHUNK.pack(Opcode.CHUNK, CHUNK.size - 9 + size, first, last, size, crc, 0, size)
        start = self.bytes_written
        offset = start + len(head) + size
        offsets, indexes = {}, []
        for channel, entries in self._index.items():
            record = _bytes(MessageIndex(channel_id=channel, records=entries))
            offsets[channel] = offset
            offset += len(record)
            indexes.append(record)
        self._append([head, *self._buffers, *indexes])
        self._crc = join_crc32(zlib.crc32(head, self._crc), crc, size)
        for record in indexes:
            self._crc = zlib.crc32(record, self._crc)
        self._chunks.append(
            ChunkIndex(
                message_start_time=first,
                message_end_time=last,
                chunk_start_offset=start,
                chunk_length=len(head) + size,
                message_index_offsets=offsets,
                message_index_length=sum(map(len, indexes)),
                compression="",
                compressed_size=size,
                uncompressed_size=size,
            )
        )
        self._begin_chunk()

    def close(self) -> None:
        """Write the buffered messages and the summary, and fsync. Safe to call twice."""
        if self._closed:
            return
        self.flush()
        self._append(self._summary())
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise DatasetError(_cannot_write(self.path, error)) from error
        self.abandon()

    def abandon(self) -> None:
        """Close the file as it is, without a summary; the flushed messages can be recovered."""
        if not self._closed:
            self._closed = True
            os.close(self._fd)
            self._begin_chunk()  # buffered messages may be views into a file that is also being closed

    def _begin_chunk(self) -> None:
        self._buffers: list[bytes | memoryview] = []
        self._index: dict[int, list[tuple[int, int]]] = {}
        self._size = 0
        self._span = _NO_SPAN
        self._begun = time.monotonic()

    def _summary(self) -> list[bytes]:
        end = _bytes(DataEnd(data_section_crc=self._crc))
        start = self.bytes_written + len(end)
        groups: list[tuple[Opcode, list[McapRecord]]] = [
            (Opcode.SCHEMA, list(self._schemas)),
            (Opcode.CHANNEL, list(self._channels)),
            (Opcode.STATISTICS, [self._statistics()]),
            (Opcode.CHUNK_INDEX, list(self._chunks)),
            (Opcode.METADATA_INDEX, list(self._metadata)),
        ]
        body, offsets = b"", b""
        for opcode, records in groups:
            group = b"".join(map(_bytes, records))
            if group:
                offset = SummaryOffset(
                    group_opcode=opcode, group_start=start + len(body), group_length=len(group)
                )
                offsets += _bytes(offset)
                body += group
        footer = struct.pack("<BQQQ", Opcode.FOOTER, 20, start, start + len(body))
        crc = zlib.crc32(body + offsets + footer)
        last = _bytes(Footer(summary_start=start, summary_offset_start=start + len(body), summary_crc=crc))
        return [end, body, offsets, last, MAGIC]

    def _statistics(self) -> Statistics:
        return Statistics(
            attachment_count=0,
            channel_count=len(self._channels),
            channel_message_counts=dict(self._counts),
            chunk_count=len(self._chunks),
            message_count=self.message_count,
            metadata_count=len(self._metadata),
            message_start_time=self._range[0],
            message_end_time=self._range[1],
            schema_count=len(self._schemas),
        )

    def _append_data(self, record: bytes) -> None:
        """Write a record of the data section outside the chunks."""
        self._append([record])
        self._crc = zlib.crc32(record, self._crc)

    def _append(self, buffers: list[bytes] | list[bytes | memoryview]) -> None:
        """Write all ``buffers``, or truncate the file to its previous size and raise."""
        start = self.bytes_written
        try:
            written = self._write_all(list(buffers))
        except OSError as error:
            os.ftruncate(self._fd, start)
            os.lseek(self._fd, start, os.SEEK_SET)
            raise DatasetError(_cannot_write(self.path, error)) from error
        self.bytes_written = start + written

    def _write_all(self, buffers: list[bytes | memoryview]) -> int:
        total, position = 0, 0
        while position < len(buffers):
            batch = buffers[position : position + _GATHER]
            done = os.writev(self._fd, batch)
            total += done
            for buffer in batch:
                if done < len(buffer):
                    break
                done -= len(buffer)
                position += 1
            if done:
                buffers[position] = memoryview(buffers[position])[done:]
        return total
