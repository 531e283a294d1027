"""Our robot under OpenVLA's deploy server: its request, its answers, its ``"error"``."""

import json
import socket
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from support.policy_doors import IMAGE, SPACE, actions_of, mirror_server, observation

from openvla_ros.api import load_policy
from openvla_ros.errors import InvalidValueError, ModelOutputError, PolicyError
from openvla_ros.policy.act_remote import ActPolicy
from openvla_ros.protocols import act_codec

GOOD = np.arange(7.0) / 1000


@contextmanager
def act_server(answers, status=200):
    """A server that gives ``answers`` one after another; yields its address and the requests."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            requests.append(self.rfile.read(int(self.headers["Content-Length"])))
            body = answers[min(len(requests), len(answers)) - 1]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

        def version_string(self):
            return "uvicorn 1"

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"act+http://127.0.0.1:{server.server_address[1]}/act", requests
        finally:
            server.shutdown()
            thread.join(5)


def policy_at(address, **options):
    return ActPolicy(address, SPACE, "primary", timeout_s=2.0, **options)


@pytest.mark.parametrize("encoded", [False, True])
def test_the_robot_sends_its_image_and_words_and_executes_the_action(encoded):
    with act_server([act_codec.action_to_json(GOOD, encoded)]) as (address, requests):
        policy = policy_at(address, unnorm_key="bridge_orig")
        chunk = policy.infer(observation("push"))
        np.testing.assert_array_equal(chunk.actions, [GOOD])
        assert policy.report()["policy_server"] == "uvicorn 1"
    sent = act_codec.request_from_json(requests[0])
    assert (sent.instruction, sent.unnorm_key) == ("push", "bridge_orig")
    np.testing.assert_array_equal(sent.image, IMAGE)
    assert chunk.observation_stamp_ns == 7


@pytest.mark.parametrize(
    ("body", "status", "kind", "wrong"),
    [
        (b'"error"', 200, PolicyError, "answered 'error'"),
        (b"<html>", 200, PolicyError, "not valid JSON"),
        (b'{"message": "no key"}', 400, PolicyError, "answered 400 Bad Request.*no key"),
        (json.dumps([0.0] * 8).encode(), 200, ModelOutputError, r"\(1, 8\); this robot's are \(steps, 7\)"),
        (json.dumps([1e999] * 7).encode(), 200, PolicyError, "Infinity is not"),
    ],
)
def test_what_is_no_action_is_an_error(body, status, kind, wrong):
    with act_server([body], status) as (address, _), pytest.raises(kind, match=wrong):
        policy_at(address).infer(observation())


def test_it_reaches_our_own_server_too():
    with mirror_server() as (_, server):
        policy = load_policy(f"act+http://127.0.0.1:{server.port}/act", robot="sim_widowx")
        np.testing.assert_array_equal(policy.infer(observation()).actions, actions_of(observation())[:1])
        policy.close()
        with pytest.raises(PolicyError, match="is closed"):
            policy.infer(observation())


def test_addresses_that_are_wrong_or_silent_are_named():
    with pytest.raises(PolicyError, match="cannot be reached"):
        policy_at("act+http://127.0.0.1:9/act")
    for address in ("http://host/act", "act+http:///act", "act+http://host:port/act"):
        with pytest.raises(InvalidValueError, match=r"address '(act\+)?http"):
            policy_at(address)
    with act_server([b"[]"]) as (address, _), pytest.raises(PolicyError, match="needs camera 'wrist'"):
        ActPolicy(address, SPACE, "wrist").infer(observation())


def test_a_server_that_drips_its_answer_is_given_up_in_time():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()

        def drip():
            for _ in range(2):  # the robot looks whether it is there, then it asks
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    for _ in range(200):
                        if ended.wait(0.1):
                            break
                        connection.sendall(b"H")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        policy = ActPolicy(
            f"act+http://127.0.0.1:{listener.getsockname()[1]}/act", SPACE, "primary", timeout_s=1.0
        )
        began = time.monotonic()
        with pytest.raises(PolicyError, match="did not answer within 1 s"):
            policy.infer(observation("push"))
        assert time.monotonic() - began < 4.0
        ended.set()
        thread.join(5)
