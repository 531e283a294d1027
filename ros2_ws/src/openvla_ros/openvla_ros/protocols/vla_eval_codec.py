"""vla-eval's messages as bytes, both directions: a msgpack map with a type, a payload, a number and a time.

Read in vla-eval 0.8.0, ``protocol/messages.py``, ``numpy_codec.py`` and ``image_codec.py``; see
docs/maps.md.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import msgpack
import numpy as np

from openvla_ros.errors import InvalidValueError
from openvla_ros.preprocessing.image_encoding import decode_compressed
from openvla_ros.protocols.array_bytes import DTYPES, array_from_bytes
from openvla_ros.protocols.message_codec import UNFIT

PROTOCOL = 1
PATH = "/vla-eval"  # of its clients' address; openpi's and ours have none
Kind = Literal["hello", "observation", "action", "episode_start", "episode_end", "error"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_ARRAY, _IMAGE = "__ndarray__", "__image__"


@dataclass(frozen=True)
class EvaluationMessage:
    """One message; an answer has the number of what it answers."""

    kind: Kind
    payload: dict[str, Any]
    number: int = 0


def pack(message: EvaluationMessage) -> bytes:
    """Return the bytes; arrays must be of one of ``array_bytes.DTYPES``."""
    parts = {
        "type": message.kind,
        "payload": message.payload,
        "seq": message.number,
        "timestamp": time.time(),
    }
    return bytes(msgpack.packb(parts, default=_array_to_map))


def unpack(data: bytes | str) -> EvaluationMessage:
    """Return the message in ``data``; raises ``InvalidValueError`` if it is none."""
    if isinstance(data, str):
        raise InvalidValueError(f"expected a binary message, got text: {data[:80]!r}")
    try:
        parts = msgpack.unpackb(data, object_hook=_from_map)
    except InvalidValueError:
        raise
    except UNFIT as error:
        raise InvalidValueError(f"cannot decode a message of {len(data)} bytes: {error}") from error
    if not isinstance(parts, dict):
        raise InvalidValueError(f"expected a map, got {type(parts).__name__}")
    kind, payload, number = (parts.get(key) for key in ("type", "payload", "seq"))
    if kind not in KINDS:
        raise InvalidValueError(
            f"the type of a message is {repr(kind)[:80]}; the types are {', '.join(KINDS)}"
        )
    if not isinstance(payload, dict) or not all(isinstance(key, str) for key in payload):
        raise InvalidValueError(
            f"the payload of {kind} is {type(payload).__name__}; it must be a map of text keys"
        )
    if not isinstance(number, int) or isinstance(number, bool):
        raise InvalidValueError(f"the number of {kind} is {repr(number)[:80]}; it must be whole")
    return EvaluationMessage(kind, payload, number)


def _array_to_map(value: Any) -> dict[str, Any]:
    if not isinstance(value, np.ndarray) or value.dtype.str not in DTYPES:
        kind = value.dtype.str if isinstance(value, np.ndarray) else type(value).__name__
        raise InvalidValueError(f"cannot serialise {kind}; supported are arrays of {', '.join(DTYPES)}")
    return {_ARRAY: True, "data": value.tobytes(), "dtype": value.dtype.str, "shape": list(value.shape)}


def _from_map(value: Mapping[Any, Any]) -> Any:
    if _IMAGE in value and value.get("format") != "raw":
        data = value.get("data")
        if not isinstance(data, bytes):
            raise InvalidValueError(f"an image's data is {type(data).__name__}; it must be bytes")
        return decode_compressed(str(value.get("format"))[:20], data)
    if _IMAGE in value or _ARRAY in value:
        return array_from_bytes(value.get("dtype"), value.get("shape"), value.get("data"))
    return value
