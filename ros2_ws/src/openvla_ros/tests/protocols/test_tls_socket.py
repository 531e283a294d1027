"""A TLS connection that one thread reads while others write: the SSL object belongs to one at a time."""

import socket
import ssl
import threading
import time

import pytest

pytest.importorskip("cryptography", reason="needs the extra [tls]")

from openvla_ros.protocols.tls import PinnedContext, client_context, server_context
from openvla_ros.protocols.tls_socket import DuplexTlsSocket
from openvla_ros.serving.certificates import make_certificate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("tls") / "own"
    make_certificate(found, "127.0.0.1")
    return found


@pytest.fixture
def ends(folder):
    """Both ends of one connection, the server's first."""
    context, fingerprint = server_context(folder)
    ours, theirs = socket.socketpair()
    served = context.wrap_socket(ours, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=served.do_handshake)
    thread.start()
    client = PinnedContext("wss://h", fingerprint).wrap_socket(theirs, server_hostname="h")
    thread.join(10)
    yield served, client
    served.close()
    client.close()


class OneUser:
    """In place of the SSL object: passes everything on, and notes use by two threads at a time."""

    def __init__(self, real):
        self._real, self._busy, self.clashes = real, threading.Lock(), 0

    def _used(self, step, *arguments):
        alone = self._busy.acquire(blocking=False)
        self.clashes += not alone
        try:
            return step(*arguments)
        finally:
            if alone:
                self._busy.release()

    def read(self, *arguments):
        return self._used(self._real.read, *arguments)

    def write(self, data):
        return self._used(self._real.write, data)

    def __getattr__(self, name):
        return getattr(self._real, name)


def read_all(end, size, into):
    while len(into) < size and (data := end.recv(65536)):
        into += data


def test_both_directions_at_once_arrive_whole_and_no_two_threads_use_the_ssl_object(ends):
    sent = [bytes([number]) * 3_000_000 + b"end" for number in (1, 2)]
    users = [OneUser(end._sslobj) for end in ends]
    for end, user in zip(ends, users, strict=True):
        end._sslobj = user
        end.settimeout(30)
    arrived = [bytearray(), bytearray()]
    threads = [
        threading.Thread(target=step)
        for number in (0, 1)
        for step in (
            lambda n=number: ends[n].sendall(sent[n]),
            lambda n=number: read_all(ends[n], len(sent[1 - n]), arrived[n]),
        )
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert bytes(arrived[0]) == sent[1]
    assert bytes(arrived[1]) == sent[0]
    assert [user.clashes for user in users] == [0, 0]


def test_a_thread_that_waits_for_data_keeps_nobody_from_writing(ends):
    served, client = ends
    arrived = bytearray()
    reader = threading.Thread(target=read_all, args=(client, 4, arrived))
    reader.start()
    time.sleep(0.05)
    client.sendall(b"question")
    assert served.recv(100) == b"question"
    served.sendall(b"here")
    reader.join(10)
    assert arrived == b"here"


def test_waiting_ends_after_the_limit_and_when_the_connection_closes(ends):
    served, client = ends
    client.settimeout(0.1)
    assert client.gettimeout() == 0.1
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        client.recv(10)
    with pytest.raises(TimeoutError):
        client.sendall(b"x" * 50_000_000)  # nobody reads
    assert 0.2 <= time.monotonic() - began < 5.0
    ended, served_timeout = [], served.gettimeout()
    assert served_timeout is None

    def wait_for_ever():
        try:
            while served.recv(1 << 20):
                pass
        except OSError:
            pass
        ended.append(True)

    reader = threading.Thread(target=wait_for_ever)
    reader.start()
    time.sleep(0.05)
    served.close()
    reader.join(10)
    assert ended


def test_every_context_makes_such_connections_and_the_server_sends_no_tickets(folder):
    context, fingerprint = server_context(folder)
    clients = [
        client_context("wss://h", fingerprint, is_tls=True), client_context("wss://h", "", is_tls=True)
    ]  # fmt: skip
    assert {made.sslsocket_class for made in (context, *clients)} == {DuplexTlsSocket}
    assert clients[1].verify_mode is ssl.CERT_REQUIRED
    assert context.num_tickets == 0
