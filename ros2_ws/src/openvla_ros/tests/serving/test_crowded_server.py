"""What many clients at once cost the server: messages too large, halves of messages, half handshakes."""

import socket
import struct
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from support.policy_doors import observation
from support.python_process import start_openvla
from support.waiting import wait_until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from openvla_ros.errors import InvalidValueError
from openvla_ros.policy.remote import RemotePolicy
from openvla_ros.protocols import act_codec, message_codec, wire
from openvla_ros.serving.secret_files import write_secret
from openvla_ros.serving.tokens import TokenHash

CLIENTS = 20
MB = 1 << 20
HEADERS = {"Authorization": "Bearer secret"}


def memory_mb(process):
    """The memory that a process has now, MB."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


@pytest.fixture
def served(tmp_path):
    """A server process with a token: it, its address and its port."""
    write_secret(tmp_path / "token", TokenHash.of("secret").to_text().encode())
    arguments = [
        "--policy",
        "hold",
        "--robot",
        "sim_widowx",
        "--port",
        "0",
        "--token-file",
        tmp_path / "token",
    ]
    with start_openvla("serve", *map(str, arguments)) as process:
        address = process.stdout.readline().split()[-1]
        yield process, address, int(address.rpartition(":")[2])
        process.kill()


def opened(stack, address):
    """A websocket that is admitted; the server may or may not have a place for it."""
    connection = stack.enter_context(
        connect(address, compression=None, additional_headers=HEADERS, subprotocols=[wire.SUBPROTOCOL])
    )
    with suppress(ConnectionClosed):
        connection.recv(5)
    return connection


def is_served(address):
    remote = RemotePolicy(address, "secret")
    try:
        return remote.infer(observation()) is not None
    finally:
        remote.close()


def test_messages_of_100_mb_are_refused_before_they_are_read(served):
    process, address, port = served
    assert is_served(address)
    before = memory_mb(process)
    with ExitStack() as stack:
        for _ in range(CLIENTS):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            sock.sendall(
                b"POST /act HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer secret\r\nContent-Length: %d\r\n\r\n"
                % (100 * MB)
            )
            with suppress(ConnectionError):
                for _ in range(100):
                    sock.sendall(b"x" * MB)
        connection = opened(stack, address)
        with suppress(ConnectionClosed, ConnectionError):
            connection.socket.sendall(b"\x82\xff" + struct.pack(">Q", 100 * MB) + b"\0\0\0\0")
            connection.recv(5)
        assert memory_mb(process) - before < 100  # of 2,100 MB that were offered
    wait_until(lambda: is_served(address))


def test_halves_of_messages_and_of_handshakes_cost_what_was_sent_and_no_more(served):
    process, address, port = served
    assert is_served(address)
    before, sent = memory_mb(process), 4 * MB
    with ExitStack() as stack:
        for _ in range(CLIENTS):
            half = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            half.sendall(b"GET / HTTP/1.1\r\nHost")
            body = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            body.sendall(
                b"POST /act HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer secret\r\nContent-Length: %d\r\n\r\n"
                % (2 * sent)
            )
            body.sendall(b"x" * sent)
        assert is_served(address)  # meanwhile
        grown = memory_mb(process) - before
        assert grown < 3 * CLIENTS * sent / MB
    wait_until(lambda: is_served(address))


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\x00\x40\x00\x00" + b"\x01" * (4 * MB),  # an array of four million small numbers
        b"\xdf\x00\x20\x00\x00" + b"\xa1a\x01" * (2 * MB),  # a map
        b"\x91" * (4 * MB),  # arrays in arrays
        b"\xc7\xff\x01" + b"x" * 255,  # an extension type
    ],
)
def test_what_would_grow_when_decoded_is_refused_before(data):
    with pytest.raises(InvalidValueError, match="cannot decode a message"):
        message_codec.unpack(data)


def test_json_of_many_values_is_refused_before_it_is_decoded():
    with pytest.raises(InvalidValueError, match="JSON with 100001 values; at most 4096"):
        act_codec.request_from_json(b'{"image": [%s1]}' % (b"1," * 100_000))
