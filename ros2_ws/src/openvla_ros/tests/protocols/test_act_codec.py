"""``POST /act``: requests and answers in both forms, and every refusal names the field."""

import base64
import json

import numpy as np
import pytest

from openvla_ros.errors import InvalidValueError
from openvla_ros.protocols import act_codec
from openvla_ros.protocols.act_codec import ActRequest

IMAGE = np.random.default_rng(2).integers(0, 256, (5, 7, 3), np.uint8)
ENCODED = {"__numpy__": base64.b64encode(IMAGE.tobytes()).decode(), "dtype": "|u1", "shape": [5, 7, 3]}
GOOD = {"image": ENCODED, "instruction": "lift"}


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("key", [None, "bridge_orig"])
def test_a_request_survives(encoded, key):
    before = ActRequest(IMAGE, "put the carrot", key, encoded)
    after = act_codec.request_from_json(act_codec.request_to_json(before))
    assert (after.instruction, after.unnorm_key, after.encoded) == ("put the carrot", key, encoded)
    np.testing.assert_array_equal(after.image, IMAGE)


@pytest.mark.parametrize("encoded", [False, True])
def test_an_action_survives(encoded):
    action = np.linspace(-1, 1, 7)
    body = act_codec.action_to_json(action, encoded)
    assert isinstance(json.loads(body), str) is encoded
    np.testing.assert_array_equal(act_codec.action_from_json(body), action)


def test_a_plain_list_is_an_action_too():
    np.testing.assert_array_equal(act_codec.action_from_json(b"[0.5, 1]"), [0.5, 1.0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"instruction": "lift"}, "'image' is missing"),
        ({"image": ENCODED}, "'instruction' is missing"),
        ({**GOOD, "instruction": " "}, "must be text and not empty"),
        ({**GOOD, "instruction": 5}, "must be text and not empty"),
        ({**GOOD, "unnorm_key": 5}, "unnorm_key is 5"),
        ({**GOOD, "state": [1.0]}, "unknown field 'state'; the fields are image, instruction, unnorm_key"),
        ({**GOOD, "image": [[1]]}, "must be an image"),
        ({**GOOD, "image": {**ENCODED, "shape": [5, 7, 4]}}, "takes 140 bytes; got 105"),
        ({**GOOD, "image": {**ENCODED, "dtype": "|O"}}, "the choices are"),
        ({**GOOD, "image": {**ENCODED, "__numpy__": "§"}}, "not base64"),
        ({**GOOD, "image": {**ENCODED, "__numpy__": 5}}, "not base64"),
        ({"encoded": "{}", "image": 1}, "only field"),
        ({"encoded": {}}, "only field"),
        ({"encoded": "[1]"}, "expected an object"),
        ([1], "expected an object"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_by_name(fields, message):
    with pytest.raises(InvalidValueError, match=message):
        act_codec.request_from_json(json.dumps(fields).encode())


@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 200_000, b'{"instruction": NaN}', b"9" * 5000])
def test_what_is_no_json_is_refused(body):
    with pytest.raises(InvalidValueError):
        act_codec.request_from_json(body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'"error"', "answered 'error'"),
        (b'{"error": 1}', "expected an action"),
        (b"5", "expected an action"),
        (b'["a"]', "no array of numbers"),
        (b"[[[1.0]]]", "shape"),
    ],
)
def test_an_answer_without_an_action_is_an_error(body, message):
    with pytest.raises(InvalidValueError, match=message):
        act_codec.action_from_json(body)
