"""OpenVLA's ``POST /act``: JSON whose arrays are base64 in a map; see docs/maps.md.

Both directions, for a server and for a client. A client without json_numpy sends the request as one string,
``{"encoded": "..."}``, and gets the action as a string.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from openvla_ros.errors import InvalidValueError, OpenVLARosError
from openvla_ros.protocols.array_bytes import array_from_bytes, image_from_array
from openvla_ros.values.arrays import Float, Image

FIELDS = ("image", "instruction", "unnorm_key")
MOST_VALUES = 4096  # of JSON
ERROR = "error"  # what OpenVLA's server answers, with status 200, to a request that failed


@dataclass(frozen=True, eq=False)
class ActRequest:
    """What a client asks: the action for one image and one instruction."""

    image: Image  # (H, W, 3) RGB
    instruction: str
    unnorm_key: str | None = None  # the dataset whose statistics the client expects
    encoded: bool = False  # the request came as one string; so does the answer


def request_from_json(body: bytes) -> ActRequest:
    """Return the request in ``body``; raises ``InvalidValueError`` naming the field."""
    fields = _loads(body)
    encoded = isinstance(fields, dict) and "encoded" in fields
    if encoded:
        if len(fields) != 1 or not isinstance(fields["encoded"], str):
            raise InvalidValueError(f"'encoded' must be the only field, and text; got {', '.join(fields)}")
        fields = _loads(fields["encoded"])
    if not isinstance(fields, dict):
        raise InvalidValueError(f"expected an object with {', '.join(FIELDS)}; got {type(fields).__name__}")
    if unknown := [key for key in fields if key not in FIELDS]:
        raise InvalidValueError(f"unknown field {unknown[0][:80]!r}; the fields are {', '.join(FIELDS)}")
    if missing := [key for key in ("image", "instruction") if key not in fields]:
        raise InvalidValueError(f"the field {missing[0]!r} is missing")
    words, key = fields["instruction"], fields.get("unnorm_key")
    if not isinstance(words, str) or not words.strip():
        raise InvalidValueError(f"instruction is {repr(words)[:80]}; it must be text and not empty")
    if key is not None and not isinstance(key, str):
        raise InvalidValueError(f"unnorm_key is {repr(key)[:80]}; it must be text")
    return ActRequest(image_from_array("image", fields["image"]), words, key, encoded)


def request_to_json(request: ActRequest) -> bytes:
    """Return the body of a request."""
    fields: dict[str, Any] = {"image": _array_to_map(request.image), "instruction": request.instruction}
    if request.unnorm_key is not None:
        fields["unnorm_key"] = request.unnorm_key
    text = json.dumps(fields)
    return (json.dumps({"encoded": text}) if request.encoded else text).encode()


def action_to_json(action: Float, encoded: bool) -> bytes:
    """Return the body of the answer with one action (D,)."""
    text = json.dumps(_array_to_map(action))
    return (json.dumps(text) if encoded else text).encode()


def action_from_json(body: bytes) -> Float:
    """Return the action (D,) or the actions (T, D) in a server's answer.

    Raises ``InvalidValueError`` if there are none: OpenVLA's server says ``"error"`` then.
    """
    answer = _loads(body)
    if isinstance(answer, str) and answer == ERROR:
        raise InvalidValueError("the server answered 'error'; its log says why")
    if isinstance(answer, str):
        answer = _loads(answer)
    if not isinstance(answer, np.ndarray | list):
        raise InvalidValueError(f"expected an action, got {repr(answer)[:80]}")
    try:
        actions = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(f"the answer is no array of numbers: {error}") from error
    if actions.ndim not in (1, 2):
        raise InvalidValueError(f"expected an action (D,) or actions (T, D); got the shape {actions.shape}")
    return actions


def error_to_json(error: OpenVLARosError) -> bytes:
    """Return the body of an answer that says what was wrong."""
    return json.dumps({"error": type(error).__name__, "message": str(error)}).encode()


def _array_to_map(value: Float | Image) -> dict[str, Any]:
    data = base64.b64encode(value.tobytes()).decode()
    return {"__numpy__": data, "dtype": value.dtype.str, "shape": list(value.shape)}


def _map_to_array(value: dict[str, Any]) -> Any:
    if "__numpy__" not in value:
        return value
    try:
        data = base64.b64decode(value["__numpy__"], validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise InvalidValueError(f"an array that is not base64: {error}") from error
    return array_from_bytes(value.get("dtype"), value.get("shape"), data)


def _loads(text: str | bytes) -> Any:
    values = text.count(b",") if isinstance(text, bytes) else text.count(",")
    if values > MOST_VALUES:  # arrays are base64: what is longer is refused before it is built
        raise InvalidValueError(f"JSON with {values + 1} values; at most {MOST_VALUES} are read")
    try:
        return json.loads(text, object_hook=_map_to_array, parse_constant=_refuse)
    except InvalidValueError:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"not valid JSON: {error}") from error


def _refuse(constant: str) -> NoReturn:
    raise InvalidValueError(f"{constant} is not a number of JSON")
