"""``tf.train.Example`` messages, read and written without TensorFlow.

An Example is a map from a name to a list of bytes, float32 or int64
(tensorflow/core/example/feature.proto). Only the protocol-buffer wire format is needed:
https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from openvla_ros.errors import DatasetError

Values = list[bytes] | NDArray[np.float32] | NDArray[np.int64]
Example = dict[str, Values]

_BYTES = 2  # the wire type of a length and that many bytes


def parse_example(data: bytes, origin: str) -> Example:
    """Return the features of one serialised Example; ``origin`` names it in errors.

    Raises ``DatasetError`` naming the byte at which the message is not an Example.
    """
    view = memoryview(data)
    features: Example = {}
    try:
        for number, body in _fields(view):
            if number == 1:  # Example.features
                for _, entry in _fields(body):
                    name, values = _entry(entry)
                    features[name] = values
    except (IndexError, ValueError) as error:
        raise DatasetError(f"{origin}: not a tf.train.Example: {error}") from error
    return features


def _entry(view: memoryview) -> tuple[str, Values]:
    name, values = "", np.zeros(0, np.int64)
    result: Values = values
    for number, body in _fields(view):
        if number == 1:
            name = str(body, "utf-8")
        elif number == 2:
            for kind, content in _fields(body):
                result = _values(kind, content)
    return name, result


def _values(kind: int, view: memoryview) -> Values:
    parts = [body for number, body in _fields(view) if number == 1]
    match kind:
        case 1:
            return [bytes(part) for part in parts]
        case 2:
            return np.frombuffer(b"".join(parts), "<f4").astype(np.float32)
        case 3:
            return _varints(b"".join(parts))
    raise ValueError(f"a feature of kind {kind}; supported are 1 (bytes), 2 (float) and 3 (int64)")


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError(f"a number longer than 10 bytes at byte {position}")


def _fields(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (field number, body); a varint field's body is its own encoded bytes."""
    position = 0
    while position < len(view):
        tag, start = _varint(view, position)
        match tag & 7:
            case 2:
                length, start = _varint(view, start)
                end = start + length
            case 0:
                _, end = _varint(view, start)
            case 5:
                end = start + 4
            case 1:
                end = start + 8
            case other:
                raise ValueError(f"wire type {other} at byte {position}")
        if end > len(view):
            raise ValueError(f"a field at byte {position} reaches {end - len(view)} bytes past the end")
        yield tag >> 3, view[start:end]
        position = end


def _varints(data: bytes) -> NDArray[np.int64]:
    """Return packed varints as int64, all at once."""
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw < 0x80)
    if len(raw) and (not len(ends) or ends[-1] != len(raw) - 1):
        raise ValueError("a packed list of numbers ends in the middle of a number")
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)[: len(ends)]
    shift = (np.arange(len(raw)) - np.repeat(starts, ends - starts + 1)).astype(np.uint64) * np.uint64(7)
    parts = (raw & 0x7F).astype(np.uint64) << shift
    if not len(parts):
        return np.zeros(0, np.int64)
    return np.add.reduceat(parts, starts).view(np.int64)


def serialise_example(features: Mapping[str, Values]) -> bytes:
    """Return ``features`` as one Example; the inverse of ``parse_example``."""
    entries = b"".join(
        _delimited(1, _delimited(1, name.encode()) + _delimited(2, _feature(values)))
        for name, values in sorted(features.items())
    )
    return _delimited(1, entries)


def _feature(values: Values) -> bytes:
    if isinstance(values, list):
        return _delimited(1, b"".join(_delimited(1, value) for value in values))
    if values.dtype == np.float32:
        return _delimited(2, _delimited(1, np.ascontiguousarray(values, "<f4").tobytes()))
    return _delimited(3, _delimited(1, b"".join(_number(int(value)) for value in values)))


def _delimited(field: int, body: bytes) -> bytes:
    return _number(field << 3 | _BYTES) + _number(len(body)) + body


def _number(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
