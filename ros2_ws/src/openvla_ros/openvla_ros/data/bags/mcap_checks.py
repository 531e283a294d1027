"""Integrity checks of an MCAP file: checksums of both sections, message counts, and copies of the channels.

Layouts are those of https://mcap.dev/spec: a ``DataEnd`` record with the CRC-32 of all bytes before it,
the summary, and a ``Footer`` with the CRC-32 of the summary. A checksum of 0 means that there is none.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, Schema, Statistics

from openvla_ros.data.bags.mcap_writer import MAGIC
from openvla_ros.errors import DatasetError

RECORD = struct.Struct("<BQ")
_DATA_END = struct.Struct("<BQI")
_FOOTER = struct.Struct("<BQQQI")  # opcode, length, start of summary, of its offsets, checksum


@dataclass(frozen=True)
class Summary:
    """The records between the data section and the footer."""

    has_checksum: bool
    schemas: Mapping[int, Schema] = field(default_factory=dict)
    channels: Mapping[int, Channel] = field(default_factory=dict)
    statistics: Statistics | None = None


def check_data_section(view: memoryview, data_end: int, origin: str) -> bool:
    """Verify the checksum of the data section; return whether it has one. Raises ``DatasetError``."""
    _, length, crc = _DATA_END.unpack_from(view, data_end)
    if length != 4:
        raise DatasetError(f"{origin}: its data section ends with a record of {length} bytes, not of 4")
    if crc and zlib.crc32(view[:data_end]) != crc:
        raise DatasetError(f"{origin} is damaged (the checksum of its data section is wrong)")
    return bool(crc)


def read_summary(view: memoryview, data_end: int, origin: str) -> Summary:
    """Return the summary after verifying its checksum; raises ``DatasetError``."""
    footer = len(view) - len(MAGIC) - _FOOTER.size
    if footer < data_end + _DATA_END.size:
        raise DatasetError(f"{origin} is damaged (no footer after its data)")
    opcode, length, start, offsets, crc = _FOOTER.unpack_from(view, footer)
    if opcode != Opcode.FOOTER or length != _FOOTER.size - RECORD.size:
        raise DatasetError(f"{origin} is damaged (its last record is not a footer)")
    begin = data_end + _DATA_END.size
    if (
        start not in (0, begin)
        or (start == 0 and footer != begin)
        or not (offsets == 0 or start <= offsets <= footer)
    ):
        raise DatasetError(
            f"{origin} is damaged (the footer says that the summary begins at byte {start}, not {begin})"
        )
    if crc and zlib.crc32(view[begin : footer + _FOOTER.size - 4]) != crc:
        raise DatasetError(f"{origin} is damaged (the checksum of its summary is wrong)")
    return _parse(view, begin, offsets or footer, bool(crc))


def _parse(view: memoryview, begin: int, end: int, has_checksum: bool) -> Summary:
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    statistics = None
    for opcode, body in _records(view, begin, end):
        stream = ReadDataStream(BytesIO(body))
        if opcode == Opcode.SCHEMA:
            schema = Schema.read(stream)
            schemas[schema.id] = schema
        elif opcode == Opcode.CHANNEL:
            channel = Channel.read(stream)
            channels[channel.id] = channel
        elif opcode == Opcode.STATISTICS:
            statistics = Statistics.read(stream)
    return Summary(has_checksum, schemas, channels, statistics)


def _records(view: memoryview, position: int, end: int) -> Iterator[tuple[int, memoryview]]:
    while position + RECORD.size <= end:
        opcode, length = RECORD.unpack_from(view, position)
        after = position + RECORD.size + length
        yield opcode, view[position + RECORD.size : min(after, end)]
        position = after


def check_attachment(body: memoryview, origin: str) -> None:
    """Verify the checksum of an attachment record; raises ``DatasetError``."""
    (crc,) = struct.unpack_from("<I", body, len(body) - 4)
    if crc and zlib.crc32(body[:-4]) != crc:
        raise DatasetError(f"{origin} is damaged (the checksum of an attachment is wrong)")


def check_counts(summary: Summary, counts: Mapping[int, int], chunks: int, origin: str) -> None:
    """Compare the message count of each channel with the summary; raises ``DatasetError``."""
    statistics = summary.statistics
    if statistics is None:
        return
    said = {channel: n for channel, n in statistics.channel_message_counts.items() if n}
    if said != {channel: n for channel, n in counts.items() if n} or statistics.message_count != sum(
        counts.values()
    ):
        raise DatasetError(
            f"{origin} contains {sum(counts.values())} messages, by channel {dict(counts)}; "
            f"its summary counts {statistics.message_count}, by channel {said}"
        )
    if statistics.chunk_count and statistics.chunk_count != chunks:
        raise DatasetError(f"{origin} contains {chunks} chunks; its summary counts {statistics.chunk_count}")


def check_channels(
    summary: Summary, schemas: Mapping[int, Schema], topics: Mapping[int, str], origin: str
) -> None:
    """Compare schemas and topics with their copies in the summary; raises ``DatasetError``."""
    for number, schema in summary.schemas.items():
        if number in schemas and schemas[number] != schema:
            raise DatasetError(f"{origin} is damaged (the definition of {schema.name} differs from its copy)")
    copies = {number: channel.topic for number, channel in summary.channels.items()}
    if copies and any(copies.get(number) != topic for number, topic in topics.items()):
        raise DatasetError(f"{origin} is damaged (its channels differ from their copy in the summary)")
