"""Fast CDR parsing of the few message types that are read or rewritten by the thousand.

Layouts are those of ``std_msgs/Header``, ``sensor_msgs/Image`` and ``sensor_msgs/CompressedImage``;
four bytes of encapsulation come first, and alignment counts from the byte after them. Everything else
is decoded by ``MessageDecoder`` from the definitions in the recording. Knows nothing of ROS.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.preprocessing.image_encoding import decode_colour, decode_compressed, encode_jpeg
from openvla_ros.values.arrays import Image
from openvla_ros.values.time import NS_PER_S

Bytes = bytes | memoryview
_START = 4  # the encapsulation: two bytes of kind, two of options
IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


@dataclass(frozen=True)
class RawImage:
    """The fields of a sensor_msgs/Image; ``data`` is a view into the message."""

    height: int
    width: int
    encoding: str
    step: int
    data: memoryview

    def decode(self) -> Image:
        """Return the image (H, W, 3) RGB; raises ``InvalidValueError`` on an unknown encoding."""
        return decode_colour(self.encoding, self.height, self.width, self.step, self.data)


class _Cursor:
    """Reads primitives one after the other, with CDR's alignment."""

    def __init__(self, data: Bytes) -> None:
        if len(data) < _START + 8:
            raise InvalidValueError(f"a message of {len(data)} bytes is truncated")
        self.data = memoryview(data)
        self.order = "<" if self.data[1] & 1 else ">"
        self.position = _START

    def number(self, code: str) -> int:
        size = struct.calcsize(code)
        self.position += (_START - self.position) % size
        try:
            (value,) = struct.unpack_from(self.order + code, self.data, self.position)
        except struct.error as error:
            raise InvalidValueError(f"a message of {len(self.data)} bytes is truncated") from error
        self.position += size
        return int(value)

    def view(self) -> memoryview:
        """Return the bytes of a string or byte sequence."""
        length = self.number("I")
        start, self.position = self.position, self.position + length
        if self.position > len(self.data):
            raise InvalidValueError(f"a message of {len(self.data)} bytes is truncated")
        return self.data[start : self.position]

    def text(self) -> str:
        view = self.view()
        try:
            return str(view[:-1], "utf-8")
        except UnicodeDecodeError as error:
            raise InvalidValueError(f"a text of {len(view)} bytes is not UTF-8: {error}") from error


# Of a serialised message that begins with a header: 4 bytes of encapsulation, 8 of the stamp.
STAMP_END = 12


def header_stamp_ns(data: Bytes) -> int:
    """Return the stamp of a message that begins with a header, nanoseconds."""
    cursor = _Cursor(data)
    return cursor.number("i") * NS_PER_S + cursor.number("I")


def parse_image(data: Bytes) -> RawImage:
    """Return the fields of a serialised sensor_msgs/Image."""
    cursor = _Cursor(data)
    cursor.number("i"), cursor.number("I"), cursor.view()
    height, width, encoding = cursor.number("I"), cursor.number("I"), cursor.text()
    cursor.number("B")
    return RawImage(height, width, encoding, cursor.number("I"), cursor.view())


def parse_compressed_image(data: Bytes) -> tuple[str, memoryview]:
    """Return format and file of a serialised sensor_msgs/CompressedImage."""
    cursor = _Cursor(data)
    cursor.number("i"), cursor.number("I"), cursor.view()
    return cursor.text(), cursor.view()


def decode_image(type_name: str, data: Bytes) -> Image:
    """Return the image (H, W, 3) RGB of a serialised image message of either type."""
    if type_name == IMAGE:
        return parse_image(data).decode()
    return decode_compressed(*parse_compressed_image(data))


def compress_image(data: Bytes, quality: int) -> bytes:
    """Return a serialised Image as a serialised CompressedImage with the same header (JPEG).

    The format field reads as image_transport writes it: ``rgb8; jpeg compressed bgr8``.
    """
    cursor = _Cursor(data)
    cursor.number("i"), cursor.number("I"), cursor.view()
    head = bytes(cursor.data[: cursor.position])
    image = parse_image(data)
    code = f"{cursor.order}I"
    out = bytearray(head)
    name = f"{image.encoding}; jpeg compressed bgr8\0".encode()
    jpeg = encode_jpeg(image.decode(), quality)
    for part in (name, jpeg):
        out += bytes((_START - len(out)) % 4) + struct.pack(code, len(part)) + part
    return bytes(out)


@cache
def _store(types: tuple[tuple[str, str], ...]) -> Any:
    store = get_typestore(Stores.EMPTY)
    for name, definition in types:
        try:
            found = get_types_from_msg(definition, name)
        except TypesysError as error:
            raise DatasetError(f"cannot parse the definition of {name}: {error}") from error
        store.register({k: v for k, v in found.items() if k not in store.types})
    return store


class MessageDecoder:
    """Decodes messages with the definitions in their recording (type name → definition)."""

    def __init__(self, definitions: Mapping[str, str]) -> None:
        self._store = _store(tuple(sorted(definitions.items())))

    def __call__(self, type_name: str, data: Bytes) -> Any:
        """Return the message; raises ``DatasetError`` if it does not fit its type."""
        try:
            return self._store.deserialize_cdr(data, type_name)
        except (SerdeError, KeyError, ValueError, IndexError, struct.error, AssertionError) as error:
            raise DatasetError(f"cannot decode a message of type {type_name}: {error!r}") from error
