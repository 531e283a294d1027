"""One port, three protocols: what the client sends decides, and nothing that it sends ends the server."""

import base64
import json
import re
import socket
import time
from contextlib import ExitStack

import numpy as np
import pytest
from support.policy_doors import (
    IMAGE,
    PROFILE,
    SPACE,
    Mirror,
    actions_of,
    mirror_server,
    observation,
    post,
    raw,
    running,
)
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from openvla_ros.policy.remote import RemotePolicy
from openvla_ros.protocols import act_codec, message_codec, wire
from openvla_ros.protocols.act_codec import ActRequest
from openvla_ros.serving import http_exchange
from openvla_ros.serving import server as serving
from openvla_ros.serving.server import PolicyServer

MESSAGE = {"observation/image": IMAGE, "observation/state": np.full(7, 0.1), "prompt": "lift"}
BODY = act_codec.request_to_json(ActRequest(IMAGE, "lift"))
EXPECTED = actions_of(observation())
GET = b"GET %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def openpi(server, **headers):
    """A connection as openpi's client makes it."""
    return connect(f"ws://127.0.0.1:{server.port}", compression=None, additional_headers=headers)


def is_healthy(server):
    """Whether there is a place for another connection."""
    try:
        return raw(server.port, GET % b"/healthz").endswith(b"OK\n")
    except ConnectionResetError:
        return False


def asked(connection, message):
    connection.send(message_codec.pack(message))
    return connection.recv(10)


def test_each_protocol_gets_the_same_actions_from_the_same_port():
    with mirror_server() as (policy, server):
        status, answer = post(server.port, BODY)
        assert status == 200
        np.testing.assert_array_equal(act_codec.action_from_json(answer), EXPECTED[0])
        with openpi(server) as connection:
            message_codec.unpack(connection.recv(10))
            actions = message_codec.unpack(asked(connection, MESSAGE))["actions"]
        np.testing.assert_array_equal(actions, EXPECTED)
        remote = RemotePolicy(f"ws://127.0.0.1:{server.port}")
        np.testing.assert_array_equal(remote.infer(observation()).actions, EXPECTED)
        remote.close()
        for seen in policy.asked:
            np.testing.assert_array_equal(seen.images["primary"], IMAGE)
            assert seen.instruction == "lift"


def test_openpis_metadata_says_what_is_served_and_what_is_read():
    with mirror_server() as (_, server), openpi(server) as connection:
        metadata = message_codec.unpack(connection.recv(10))
    assert re.match(r"openvla_ros \d", metadata["server"])
    assert not wire.space_from_message(metadata["action_space"]).differences(SPACE)
    assert metadata["observation_keys"] == ["observation/image", "observation/state", "prompt"]


def test_errors_of_openpis_protocol_are_text_and_the_connection_stays():
    with mirror_server() as (_, server), openpi(server) as connection:
        connection.recv(10)
        for message, wrong in (
            ({**MESSAGE, "image": 1}, "InvalidValueError: unknown key 'image'"),
            ({**MESSAGE, "prompt": "fail"}, "ModelOutputError: early end"),
        ):
            answer = asked(connection, message)
            assert isinstance(answer, str)
            assert answer.startswith(wrong)
        connection.send("text")
        assert connection.recv(10).startswith("InvalidValueError: expected a binary")
        assert isinstance(asked(connection, MESSAGE), bytes)


def test_other_words_are_a_new_instruction():
    with mirror_server() as (policy, server), openpi(server) as connection:
        connection.recv(10)
        for words in ("lift", "lift", "push", "push", "lift"):
            asked(connection, {**MESSAGE, "prompt": words})
        assert policy.resets == 3


def test_a_double_encoded_request_gets_a_double_encoded_answer():
    body = act_codec.request_to_json(ActRequest(IMAGE, "lift", "sim_widowx", encoded=True))
    with mirror_server() as (_, server):
        status, answer = post(server.port, body)
    assert status == 200
    array = json.loads(json.loads(answer))
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(array["__numpy__"])), EXPECTED[0])


@pytest.mark.parametrize(
    ("words", "key", "status", "wrong"),
    [
        ("lift", "bridge_orig", 400, "this policy's is 'sim_widowx'"),
        ("fail", None, 500, "early end of sequence"),
        ("break", None, 500, "the server's log says why"),
    ],
)
def test_a_request_that_fails_has_a_status_and_a_message_and_the_next_one_is_served(
    words, key, status, wrong
):
    with mirror_server() as (_, server):
        given, answer = post(server.port, act_codec.request_to_json(ActRequest(IMAGE, words, key)))
        assert given == status
        assert wrong in json.loads(answer)["message"]
        assert post(server.port, BODY)[0] == 200


def test_without_a_robot_only_ours_are_served():
    with running(PolicyServer(Mirror(), "127.0.0.1", 0)) as server:
        status, answer = post(server.port, BODY)
        assert (status, json.loads(answer)["error"]) == (422, "PolicyError")
        with openpi(server) as connection:
            connection.recv(10)
            assert asked(connection, MESSAGE).startswith("PolicyError: this server was not told the robot")


@pytest.mark.parametrize("scheme", ["Bearer", "Api-Key"])
def test_the_token_opens_every_door_and_only_healthz_is_open_without(scheme):
    with mirror_server(token="secret") as (policy, server):
        assert raw(server.port, GET % b"/healthz").endswith(b"OK\n")
        assert post(server.port, BODY)[0] == 401
        assert post(server.port, BODY, [f"Authorization: {scheme} wrong"])[0] == 401
        assert raw(server.port, GET % b"/act").startswith(b"HTTP/1.1 401")
        with pytest.raises(InvalidStatus, match="401"), openpi(server):
            pass
        assert not policy.asked
        assert post(server.port, BODY, [f"Authorization: {scheme} secret"])[0] == 200
        with openpi(server, Authorization=f"{scheme} secret") as connection:
            connection.recv(10)
            assert isinstance(asked(connection, MESSAGE), bytes)


def test_a_robot_on_a_websocket_is_not_disturbed():
    with mirror_server() as (_, server), openpi(server) as connection:
        connection.recv(10)
        status, answer = post(server.port, BODY)
        assert (status, json.loads(answer)["message"]) == (503, "another robot is connected")
        with openpi(server) as second:
            assert second.recv(10) == "PolicyError: another robot is connected"
        assert isinstance(asked(connection, MESSAGE), bytes)


HEAD = b"POST /act HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (HEAD + b"Content-Length: 99999999999\r\n\r\n", 413),
        (HEAD + b"Expect: 100-continue\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (HEAD + b"Content-Length: -1\r\n\r\n", 400),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", 501),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (HEAD + b"Content-Length: 0\r\n\r\n", 400),
        (HEAD + b"X: " + b"y" * 200_000 + b"\r\n\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n", 400),  # TLS
        (b"rubbish\r\n\r\n", 400),
        (GET % b"/", 404),
        (GET % b"/act", 405),
        (GET % b"/docs", 404),
    ],
)
def test_a_request_that_breaks_a_rule_is_answered_and_the_next_one_is_served(request_bytes, status):
    with mirror_server() as (policy, server):
        assert raw(server.port, request_bytes).startswith(b"HTTP/1.1 %d" % status)
        assert not policy.asked
        assert post(server.port, BODY)[0] == 200


def test_a_body_in_chunks_and_one_that_waits_to_be_asked_for_are_read():
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:7], BODY[7:])) + b"0\r\n\r\n"
    expecting = HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    with mirror_server() as (_, server):
        assert b"__numpy__" in raw(server.port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
        answer = raw(server.port, expecting, BODY)
        assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
        assert b"__numpy__" in answer


def test_chunks_without_end_are_refused(monkeypatch):
    monkeypatch.setattr(wire, "LARGEST_MESSAGE", 10_000)
    with mirror_server() as (_, server):
        data = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        assert raw(server.port, data).startswith(b"HTTP/1.1 413")


def test_several_requests_on_one_connection():
    request = b"POST /act HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
    with mirror_server() as (policy, server):
        assert raw(server.port, request + request + GET % b"/healthz").count(b"HTTP/1.1 200") == 3
        assert len(policy.asked) == 2


def test_a_client_that_sends_nothing_or_half_is_let_go_and_blocks_nobody(monkeypatch):
    monkeypatch.setattr(http_exchange, "HEAD_S", 0.3)
    monkeypatch.setattr(http_exchange, "BODY_S", 0.3)
    with mirror_server() as (_, server):
        assert raw(server.port, b"") == b""
        assert raw(server.port, b"POST /act HTTP/1.1\r\nHost") == b""
        assert raw(server.port, HEAD + b"Content-Length: 100\r\n\r\n{").startswith(b"HTTP/1.1 408")


def test_half_open_connections_beyond_the_limit_are_closed_and_leave_their_place(monkeypatch):
    monkeypatch.setattr(serving, "MOST_CONNECTIONS", 3)
    with mirror_server() as (_, server), ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        while is_healthy(server):  # until three have their threads; what asks here may have taken a place
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            time.sleep(0.05)
        stack.close()
        while not is_healthy(server):
            time.sleep(0.05)
        assert post(server.port, BODY)[0] == 200


def test_closing_does_not_wait_for_a_silent_client():
    with mirror_server() as (_, server):
        silent = socket.create_connection(("127.0.0.1", server.port))
        half = socket.create_connection(("127.0.0.1", server.port))
        half.sendall(HEAD + b"Content-Length: 100\r\n\r\n")
        assert raw(server.port, GET % b"/healthz").endswith(b"OK\n")
    silent.close()
    half.close()


def test_the_profile_of_the_tests_has_a_map():
    assert PROFILE.observation_map == "bridge"
