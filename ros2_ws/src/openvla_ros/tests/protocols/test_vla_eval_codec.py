"""vla-eval's messages: read as its own codec writes them, and damage is an error with a name."""

import msgpack
import numpy as np
import pytest

from openvla_ros.errors import InvalidValueError
from openvla_ros.preprocessing.image_encoding import encode_png
from openvla_ros.protocols import vla_eval_codec
from openvla_ros.protocols.vla_eval_codec import EvaluationMessage

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


def message(**changes):
    """The bytes of an observation, as vla-eval 0.8.0 packs one."""
    parts = {"type": "observation", "payload": {}, "seq": 7, "timestamp": 1.5}
    return msgpack.packb({**parts, **changes})


def test_a_message_is_read_as_it_was_written():
    sent = EvaluationMessage("action", {"actions": np.linspace(0, 1, 7)}, 12)
    read = vla_eval_codec.unpack(vla_eval_codec.pack(sent))
    assert (read.kind, read.number) == ("action", 12)
    np.testing.assert_array_equal(read.payload["actions"], sent.payload["actions"])


@pytest.mark.parametrize("form", ["png", "raw"])
def test_images_come_as_png_or_raw(form):
    data = encode_png(IMAGE) if form == "png" else IMAGE.tobytes()
    image = {"__image__": True, "format": form, "data": data, "shape": [6, 8, 3], "dtype": "|u1"}
    read = vla_eval_codec.unpack(
        message(payload={"images": {"agentview": image}, "task_description": "lift"})
    )
    np.testing.assert_array_equal(read.payload["images"]["agentview"], IMAGE)


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        ("text", "expected a binary message"),
        (b"\xc1", "cannot decode a message of 1 bytes"),
        (msgpack.packb([1]), "expected a map, got list"),
        (message(type="dance"), "the type of a message is 'dance'; the types are hello, observation"),
        (message(type=["action"]), "the type of a message is"),
        (message(payload=[]), "the payload of observation is list"),
        (message(seq="7"), "the number of observation is '7'"),
        (message(seq=True), "must be whole"),
        (
            message(payload={"a": {"__ndarray__": 1, "dtype": "|O", "shape": [1], "data": b""}}),
            "of type '|O'",
        ),
        (
            message(payload={"a": {"__ndarray__": 1, "dtype": "<f8", "shape": [2], "data": b""}}),
            "takes 16 bytes",
        ),
        (message(payload={"a": {"__image__": 1, "format": "png", "data": b"nothing"}}), "JPEG and PNG"),
        (message(payload={"a": {"__image__": 1, "format": "png", "data": "x"}}), "must be bytes"),
        (message(payload={"a": {"__image__": 1, "format": "raw"}}), "an array of type None"),
    ],
)
def test_what_is_no_message_is_named(data, wrong):
    with pytest.raises(InvalidValueError, match=wrong.replace("|", r"\|")):
        vla_eval_codec.unpack(data)


def test_objects_are_not_sent():
    with pytest.raises(InvalidValueError, match="cannot serialise"):
        vla_eval_codec.pack(EvaluationMessage("action", {"actions": object()}))
