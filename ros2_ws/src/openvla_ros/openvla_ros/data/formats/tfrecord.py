"""TFRecord files: a sequence of byte strings, each with its length and two checksums.

A record is uint64 length, masked CRC-32C of the length, the data, masked CRC-32C of the data, all
little-endian (https://www.tensorflow.org/tutorials/load_data/tfrecord). Knows nothing of what the
records hold.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from openvla_ros.errors import DatasetError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8  # from the format's definition


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of ``data``."""
    return int(google_crc32c.value(data))


def masked_crc(data: bytes) -> int:
    """Return the checksum of ``data`` as TFRecord stores it: rotated by 15 bits plus a constant."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


@dataclass(frozen=True)
class RecordPlace:
    """The location of one record."""

    path: Path
    offset: int  # bytes from the file's start to the record's header
    length: int  # bytes of data

    def __str__(self) -> str:
        return f"{self.path} at byte {self.offset}"


@dataclass(frozen=True)
class RecordIndex:
    """The complete records of a file, and the damage that cuts it short, if any."""

    places: tuple[RecordPlace, ...]
    damage: str | None = None


def index_records(path: Path) -> RecordIndex:
    """Return the location of each complete record in ``path``, reading only the headers.

    ``damage`` names the byte offset from which a damaged or truncated file cannot be read.
    """
    size = path.stat().st_size
    places: list[RecordPlace] = []
    offset = 0
    with path.open("rb") as file:
        while offset < size:
            file.seek(offset)
            try:
                length = _read_header(file, path, offset)
            except DatasetError as error:
                return RecordIndex(tuple(places), str(error))
            end = offset + _HEADER.size + length + _FOOTER.size
            if end > size:
                damage = f"{path}: truncated: the record at byte {offset} ends at byte {end} of {size}"
                return RecordIndex(tuple(places), damage)
            places.append(RecordPlace(path, offset, length))
            offset = end
    return RecordIndex(tuple(places))


def read_record(place: RecordPlace) -> bytes:
    """Return the data of one record; raises ``DatasetError`` if a checksum or the length is wrong."""
    with place.path.open("rb") as file:
        file.seek(place.offset)
        length = _read_header(file, place.path, place.offset)
        if length != place.length:
            raise DatasetError(f"{place}: {length} bytes long, but {place.length} when the file was indexed")
        body = file.read(length + _FOOTER.size)
    if len(body) != length + _FOOTER.size:
        raise DatasetError(f"{place}: the file ends in the middle of the record")
    data = body[:length]
    if masked_crc(data) != _FOOTER.unpack(body[length:])[0]:
        raise DatasetError(f"{place}: the checksum of the record's {length} bytes is wrong")
    return data


def damaged_records(index: RecordIndex) -> list[RecordPlace]:
    """Return the records of a file whose checksums are wrong; reads all of it."""
    damaged = []
    for place in index.places:
        try:
            read_record(place)
        except DatasetError:
            damaged.append(place)
    return damaged


def _read_header(file: BinaryIO, path: Path, offset: int) -> int:
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise DatasetError(f"{path}: truncated at byte {offset}: {len(header)} bytes of a record's header")
    length, crc = _HEADER.unpack(header)
    if masked_crc(header[:8]) != crc:
        raise DatasetError(f"{path}: the length of the record at byte {offset} has a wrong checksum")
    return int(length)


def iterate_records(path: Path) -> Iterator[bytes]:
    """Yield the data of every record of ``path`` in order.

    Raises ``DatasetError`` at the first damaged record, after the whole ones before it.
    """
    index = index_records(path)
    for place in index.places:
        yield read_record(place)
    if index.damage:
        raise DatasetError(index.damage)


def write_record(file: BinaryIO, data: bytes) -> None:
    """Append one record to ``file``."""
    length = struct.pack("<Q", len(data))
    file.write(length + _FOOTER.pack(masked_crc(length)) + data + _FOOTER.pack(masked_crc(data)))
