"""TLS with a pinned certificate on all three doors; no certificate but the known one is spoken to."""

import re
import socket
import ssl
import stat
import time
import warnings
from contextlib import suppress

import numpy as np
import pytest
from support.openvla_program import run
from support.policy_doors import IMAGE, PROFILE, SPACE, Mirror, actions_of, observation, raw, running
from support.waiting import wait_until

pytest.importorskip("cryptography", reason="needs the extra [tls]")

from openvla_ros.errors import InvalidValueError, PolicyError
from openvla_ros.policy.act_remote import ActPolicy
from openvla_ros.policy.openpi_remote import OpenpiPolicy
from openvla_ros.policy.remote import RemotePolicy
from openvla_ros.protocols.tls import CERTIFICATE, KEY, parse_fingerprint, server_context
from openvla_ros.protocols.tls_socket import DuplexTlsSocket
from openvla_ros.protocols.translation import Translation
from openvla_ros.serving.certificates import make_certificate
from openvla_ros.serving.server import PolicyServer
from openvla_ros.serving.tokens import TokenHash

TOKEN = TokenHash.of("secret")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two servers' certificates."""
    found = [tmp_path_factory.mktemp("tls") / name for name in ("own", "other")]
    for folder in found:
        make_certificate(folder, "127.0.0.1")
    return found


@pytest.fixture
def served(folders):
    """A server with TLS and a token: its policy, port and fingerprint."""
    context, fingerprint = server_context(folders[0])
    policy = Mirror()
    translation = Translation.for_robot(PROFILE, "", (), "")
    with running(PolicyServer(policy, "127.0.0.1", 0, TOKEN, translation, tls=context)) as server:
        yield policy, server.port, fingerprint


def clients(port, fingerprint, token="secret"):
    """How each kind of client connects."""
    host = f"127.0.0.1:{port}"
    yield lambda: RemotePolicy(f"wss://{host}", token, fingerprint=fingerprint)
    yield lambda: OpenpiPolicy(f"openpis://{host}", PROFILE, SPACE, token=token, fingerprint=fingerprint)
    yield lambda: ActPolicy(f"act+https://{host}/act", SPACE, "primary", token=token, fingerprint=fingerprint)


def test_every_door_is_opened_with_the_right_fingerprint(served):
    _, port, fingerprint = served
    for number, client in enumerate(clients(port, fingerprint)):
        policy = client()
        actions = policy.infer(observation()).actions
        np.testing.assert_allclose(actions, actions_of(observation())[: 1 if number == 2 else 2])
        policy.close()


def test_another_certificate_is_refused_with_both_fingerprints_and_nothing_is_sent(served, folders):
    policy, port, fingerprint = served
    _, other = server_context(folders[1])
    for client in clients(port, other):
        with pytest.raises(PolicyError) as caught:
            client()
        assert fingerprint in str(caught.value)
        assert other in str(caught.value)
        assert "secret" not in str(caught.value)
    assert not policy.asked


def test_a_server_of_its_own_certificate_is_refused_without_a_fingerprint(served):
    _, port, _ = served
    for client in clients(port, ""):
        with pytest.raises(
            PolicyError, match=r"TLS failed: self.signed certificate; .* parameter fingerprint"
        ):
            client()


def test_who_speaks_no_tls_is_let_go_and_the_next_one_is_served(served, monkeypatch):
    monkeypatch.setattr("openvla_ros.serving.server.HEAD_S", 0.3)
    _, port, fingerprint = served
    with pytest.raises(PolicyError, match=r"handshake|lost|refused"):
        RemotePolicy(f"ws://127.0.0.1:{port}", "secret")
    with suppress(ConnectionResetError):
        assert raw(port, b"GET /healthz HTTP/1.1\r\n\r\n") == b""
    assert raw(port, b"") == b""  # half a handshake: nothing, until the time is over
    remote = RemotePolicy(f"wss://127.0.0.1:{port}", "secret", fingerprint=fingerprint)
    assert remote.infer(observation()) is not None
    remote.close()


def test_a_fingerprint_without_tls_and_one_that_is_none_are_told():
    with pytest.raises(InvalidValueError, match=r"ws://h:1 is not encrypted.*use wss://"):
        RemotePolicy("ws://h:1", fingerprint="0" * 64)
    with pytest.raises(InvalidValueError, match="64 hexadecimal digits"):
        RemotePolicy("wss://h:1", fingerprint="abc")
    written = ":".join(["AB"] * 32)
    assert parse_fingerprint(f" SHA256:{written}\n") == "ab" * 32


def test_old_versions_of_tls_are_refused(served):
    _, port, _ = served
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as sock,
        pytest.raises(OSError, match=r"\w"),
    ):
        context.wrap_socket(sock)


def test_a_key_that_others_can_read_or_that_is_anothers_is_refused(folders, tmp_path):
    for name, source in ((CERTIFICATE, folders[0]), (KEY, folders[1])):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    with pytest.raises(InvalidValueError, match=r"key.pem can be read by other users; chmod 600"):
        server_context(tmp_path)
    (tmp_path / KEY).chmod(0o600)
    with pytest.raises(InvalidValueError, match=r"cannot be used: .*mismatch"):
        server_context(tmp_path)
    with pytest.raises(InvalidValueError, match="does not exist; openvla serve --make-certificate"):
        server_context(tmp_path / "none")


def test_one_command_makes_a_certificate_that_serves(tmp_path):
    folder = tmp_path / "serve"
    said = run("serve", "--make-certificate", folder, "--host", "192.168.1.5").output
    found = re.search(r"fingerprint of the certificate: ([0-9a-f]{64})", said)[1]
    assert stat.S_IMODE((folder / KEY).stat().st_mode) == 0o600
    context, fingerprint = server_context(folder)
    assert fingerprint == found
    with running(PolicyServer(Mirror(), "127.0.0.1", 0, tls=context)) as server:
        remote = RemotePolicy(f"wss://127.0.0.1:{server.port}", fingerprint=found)
        assert remote.infer(observation()) is not None
        remote.close()
    with pytest.raises(InvalidValueError, match="exists; robots that know its fingerprint"):
        run("serve", "--make-certificate", folder)


def test_an_idle_handshake_does_not_keep_the_server_from_closing(folders):
    context, _ = server_context(folders[0])
    with running(PolicyServer(Mirror(), "127.0.0.1", 0, tls=context)) as server:
        silent = socket.create_connection(("127.0.0.1", server.port))
        wait_until(lambda: server._sockets)
        began = time.monotonic()
    assert time.monotonic() - began < 5.0
    silent.close()


def test_a_connection_that_is_refused_is_closed(folders):
    context, _ = server_context(folders[0])
    made = []

    class Noted(DuplexTlsSocket):
        def do_handshake(self, block=False):
            made.append(self)
            super().do_handshake(block)

    context.sslsocket_class = Noted
    plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    plain.check_hostname, plain.verify_mode = False, ssl.CERT_NONE
    with running(PolicyServer(Mirror(), "127.0.0.1", 0, tls=context)) as server:
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock,
            plain.wrap_socket(sock) as client,
        ):
            client.sendall(b"no request at all\r\n\r\n")
            while client.recv(4096):
                pass
        wait_until(lambda: made and all(served.fileno() < 0 for served in made))


def test_images_larger_than_a_record_of_tls_arrive(served):
    _, port, fingerprint = served
    large = np.kron(IMAGE, np.ones((8, 8, 1), np.uint8))
    remote = RemotePolicy(f"wss://127.0.0.1:{port}", "secret", fingerprint=fingerprint)
    for _ in range(20):
        asked = observation()
        chunk = remote.infer(type(asked)(1, {"primary": large}, "lift"))
        np.testing.assert_allclose(chunk.actions[0, 0], large.mean() / 1e4)
    remote.close()
