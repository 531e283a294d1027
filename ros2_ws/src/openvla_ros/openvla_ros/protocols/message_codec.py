"""Messages to and from policy servers as bytes: msgpack maps, their arrays as openpi writes them; no pickle.

For our own protocol (``wire`` says what its keys mean) and for openpi's (``observation_map`` does); see
docs/maps.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from openvla_ros.errors import InvalidValueError
from openvla_ros.protocols.array_bytes import DTYPES, array_from_bytes

Message = dict[str, Any]
# What decoding untrusted bytes may raise.
UNFIT = (TypeError, ValueError, OverflowError, KeyError, msgpack.exceptions.UnpackException)
# Arrays are bytes, so that lists and maps are short: what is longer is refused before it is built.
_MOST = {"max_array_len": 4096, "max_map_len": 256, "max_ext_len": 0}
_ARRAY, _SCALAR = b"__ndarray__", b"__npgeneric__"


def pack(message: Mapping[str, Any]) -> bytes:
    """Return ``message`` as bytes; arrays must be of one of ``array_bytes.DTYPES``."""
    return bytes(msgpack.packb(message, default=_array_to_map))


def unpack(data: bytes | str) -> Message:
    """Return the map in ``data``; raises ``InvalidValueError`` if there is none."""
    if isinstance(data, str):
        raise InvalidValueError(f"expected a binary message, got text: {data[:80]!r}")
    try:
        message = msgpack.unpackb(data, object_hook=_map_to_array, **_MOST)
    except InvalidValueError:
        raise
    except UNFIT as error:
        raise InvalidValueError(f"cannot decode a message of {len(data)} bytes: {error}") from error
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise InvalidValueError(f"expected a map with text keys, got {type(message).__name__}")
    return message


def _array_to_map(value: Any) -> dict[bytes, Any]:
    if not isinstance(value, np.ndarray) or value.dtype.str not in DTYPES:
        kind = value.dtype.str if isinstance(value, np.ndarray) else type(value).__name__
        raise InvalidValueError(f"cannot serialise {kind}; supported are arrays of {', '.join(DTYPES)}")
    array = {b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": list(value.shape)}
    return {_ARRAY: True, **array}


def _map_to_array(value: dict[Any, Any]) -> Any:
    if _ARRAY in value:
        return array_from_bytes(value.get(b"dtype"), value.get(b"shape"), value.get(b"data"))
    if _SCALAR in value:
        number = value.get(b"data")
        if not isinstance(number, bool | int | float):
            raise InvalidValueError(f"a numpy scalar of {type(number).__name__}; it must be a number")
        return number
    return value
