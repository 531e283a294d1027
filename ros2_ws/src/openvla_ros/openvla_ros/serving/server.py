"""Serves one policy to several robots, on one port: the machine with the GPU.

What the client sends decides the protocol: ours, openpi's or vla-eval's over a websocket, or OpenVLA's
``POST /act``. The path of the address names the robot's adapter. Each message is validated like any other
input; a client must present the token. Nothing that a client sends is executed.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from http import HTTPStatus
from typing import Any, NoReturn, cast
from urllib.parse import unquote

from websockets.exceptions import ConnectionClosed
from websockets.protocol import State
from websockets.sync.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

from openvla_ros.errors import InvalidValueError, PolicyError
from openvla_ros.policy.protocol import Policy
from openvla_ros.protocols import act_codec, vla_eval_codec, wire
from openvla_ros.protocols.benchmark_actions import BenchmarkActions
from openvla_ros.protocols.translation import Translation
from openvla_ros.serving.batches import Batches, ServedPolicy
from openvla_ros.serving.benchmark_dialogue import BenchmarkDialogue, NotedLink
from openvla_ros.serving.dialogues import ActEndpoint, Dialogue, OpenpiDialogue, OwnDialogue
from openvla_ros.serving.http_exchange import (
    HEAD_S,
    Answer,
    Head,
    HttpExchange,
    RefusedRequestError,
    converse,
)
from openvla_ros.serving.places import Places, Robot
from openvla_ros.serving.shared_policy import OneAtATime, Session, SharedPolicy
from openvla_ros.serving.tokens import DoorKeeper, TokenHash

LOOPBACK = ("127.0.0.1", "::1", "localhost")
# For an answer to a robot that does not read, and for the closing handshake.
SEND_S, CLOSE_S = 2.0, 1.0
# Messages of one robot that are read ahead of the one that is being answered.
READ_AHEAD = 2
# Connections that are not a served websocket; one more is closed at once.
MOST_CONNECTIONS = 64
MOST_ROBOTS = 64  # each has a thread
TEXT, JSON = "text/plain; charset=utf-8", "application/json"

_LOG = logging.getLogger(__name__)


class _AnsweredError(Exception):
    """The connection was answered as HTTP and is to be closed."""


class _ReadAhead(ServerConnection):
    """A websocket whose handshake request has been read already."""

    def __init__(self, taken: bytes, *args: Any, **options: Any) -> None:
        self._taken = taken  # before the base class starts its reading thread
        super().__init__(*args, **options)

    def recv_events(self) -> None:
        """Process what was read, then what arrives."""
        with self.protocol_mutex:
            self.protocol.receive_data(self._taken)
            events = self.protocol.events_received()
        for event in events:
            self.process_event(event)
        super().recv_events()


class PolicyServer:
    """A server around ``policy``; ``serve_forever`` runs it until ``close``."""

    def __init__(
        self,
        policy: Policy | SharedPolicy,
        host: str,
        port: int,
        token: str | TokenHash = "",
        translation: Translation | None = None,
        benchmark: BenchmarkActions | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        without_tls: bool = False,
        robots: int = 8,
        batch: int = 8,
    ) -> None:
        """Bind; raises ``InvalidValueError`` for an address that others reach without a token and TLS.

        Of a ``token`` only its hash is kept. ``without_tls`` serves in the clear all the same.
        At most ``robots`` are served at a time, as far as the policy can; what up to ``batch`` of them ask is
        answered together. Without ``translation``, openpi's and OpenVLA's clients are not served.
        With ``benchmark``, only those of vla-eval's clients are that run it.
        """
        check_protected(host, bool(token), tls is not None or without_tls)
        for name, value in (("robots", robots), ("batch", batch)):
            if not 1 <= value <= MOST_ROBOTS:
                raise InvalidValueError(f"{name} is {value}; it must be 1 .. {MOST_ROBOTS}")
        shared = policy if isinstance(policy, SharedPolicy) else OneAtATime(policy)
        self._policy, self._translation, self._tls = shared, translation, tls
        self._benchmark = benchmark
        hashed = TokenHash.of(token) if isinstance(token, str) and token else token
        self._door = DoorKeeper(hashed) if isinstance(hashed, TokenHash) else None
        self._places = Places(min(robots, shared.most_robots or robots))
        self._batches = Batches(shared, batch, lambda: self._places.taken)
        self._only_act = self._act_endpoint("") if shared.most_robots == 1 else None
        self._waiting_room = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._sockets: set[socket.socket] = set()  # of HTTP clients
        self._lock = threading.Lock()
        self._closing = False
        try:
            self._server: Server = serve(
                self._serve, host, port, compression=None, max_size=wire.LARGEST_MESSAGE,
                close_timeout=CLOSE_S, max_queue=READ_AHEAD, subprotocols=[Subprotocol(wire.SUBPROTOCOL)],
                select_subprotocol=_own_if_offered, create_connection=cast(Any, self._open),
            )  # fmt: skip
        except OSError as error:
            self._batches.close()
            raise InvalidValueError(f"cannot listen on {host}:{port}: {error}") from error

    @property
    def port(self) -> int:
        """The port in use; chosen by the system if 0 was given."""
        return int(self._server.socket.getsockname()[1])

    def serve_forever(self) -> None:
        """Serve until ``close`` is called from another thread or a signal handler."""
        self._server.serve_forever()

    def close(self) -> None:
        """Stop serving."""
        with self._lock:
            self._closing = True
            for sock in self._sockets:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        self._server.shutdown()
        self._batches.close()

    # A new connection, on a thread of its own

    def _open(self, sock: socket.socket, *args: Any, **options: Any) -> ServerConnection:
        """Return the websocket on ``sock``; anything else is answered here and raises."""
        address = str(sock.getpeername()[0])
        if self._tls is not None:
            sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        try:
            with self._place_to_wait(sock):
                _shake_hands(sock)
                exchange = HttpExchange(sock)
                try:
                    head = exchange.head()
                    if head is None or not (head.upgrades and self._is_admitted(head, address)):
                        self._answer_http(exchange, head, address)
                except RefusedRequestError as error:
                    _refuse(exchange, error)
        except BaseException:
            sock.close()  # with TLS it is not the one that whoever called would close
            raise
        # Of what is sent: a robot that does not read loses its connection. Reading waits for data first.
        sock.settimeout(SEND_S)
        return _ReadAhead(exchange.taken, sock, *args, **options)

    @contextmanager
    def _place_to_wait(self, sock: socket.socket) -> Iterator[None]:
        """Hold a place for an HTTP client; raises if all are taken or the server is closing."""
        if not self._waiting_room.acquire(blocking=False):
            _LOG.warning("a connection was closed: there are %d already", MOST_CONNECTIONS)
            raise _AnsweredError
        try:
            with self._lock:
                if self._closing:
                    raise _AnsweredError
                self._sockets.add(sock)
            yield
        finally:
            with self._lock:
                self._sockets.discard(sock)
            self._waiting_room.release()

    def _answer_http(self, exchange: HttpExchange, head: Head | None, address: str) -> NoReturn:
        endpoints: dict[str, ActEndpoint] = {}  # what a client on one connection asks belongs together
        try:
            converse(exchange, lambda asked: self._answer(exchange, asked, address, endpoints), head)
        except OSError:
            _LOG.debug("an HTTP client went away")
        raise _AnsweredError

    def _answer(
        self, exchange: HttpExchange, head: Head, address: str, endpoints: dict[str, ActEndpoint]
    ) -> Answer:
        if head.path == "/healthz" and head.method in ("GET", "HEAD"):
            exchange.ended()
            return HTTPStatus.OK, b"" if head.method == "HEAD" else b"OK\n", TEXT
        if not self._is_admitted(head, address):
            return HTTPStatus.UNAUTHORIZED, b"wrong or missing token\n", TEXT
        path, _, last = head.path.rpartition("/")
        if last != "act" or (name := _variant(path)) not in self._policy.variants:
            doors = "here are: websockets, POST /act, GET /healthz"
            others = ", ".join(f"POST /{name}/act" for name in self._policy.variants if name)
            return HTTPStatus.NOT_FOUND, f"{doors}{', ' * bool(others)}{others}\n".encode(), TEXT
        if head.method != "POST":
            return HTTPStatus.METHOD_NOT_ALLOWED, b"/act takes POST\n", TEXT
        body = exchange.body(head, wire.LARGEST_MESSAGE)
        if name not in endpoints:
            endpoints[name] = self._only_act or self._act_endpoint(name)
        return *self._act_in_turn(endpoints[name], body), JSON

    def _act_endpoint(self, variant: str) -> ActEndpoint:
        session = self._policy.session(variant)
        return ActEndpoint(ServedPolicy(session, self._batches), self._translated(session))

    def _act_in_turn(self, endpoint: ActEndpoint, body: bytes) -> tuple[int, bytes]:
        if not self._places.take(None):
            busy = PolicyError(self._places.refusal)
            return HTTPStatus.SERVICE_UNAVAILABLE, act_codec.error_to_json(busy)
        try:
            return endpoint.answer(body)
        finally:
            self._places.leave(None)

    def _is_admitted(self, head: Head, address: str) -> bool:
        return self._door is None or self._door.admits(head.headers.get("authorization", ""), address)

    def _translated(self, session: Session) -> Translation | None:
        """Return the translation for what a session's policy was trained on."""
        if self._translation is None:
            return None
        cameras = session.cameras or self._translation.cameras
        key = session.dataset_key or self._translation.dataset_key
        return replace(self._translation, cameras=cameras, dataset_key=key)

    # A websocket

    def _serve(self, connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):  # the robot has gone; its place is free
            path = connection.request.path if connection.request else "/"
            if path.endswith(vla_eval_codec.PATH):
                return self._evaluate(connection, path.removesuffix(vla_eval_codec.PATH))
            try:
                session = self._policy.session(_variant(path))
            except PolicyError as error:
                return self._decline(connection, error)
            dialogue, robot = self._dialogue(connection, session), Robot(connection)
            if not self._places.take(robot):
                return connection.send(dialogue.refusal(PolicyError(self._places.refusal)))
            try:
                connection.send(dialogue.greeting())
                for data in connection:
                    robot.has_asked()
                    connection.send(dialogue.answer(_newest(connection, dialogue, data)))
            finally:
                self._places.leave(robot)

    def _evaluate(self, connection: ServerConnection, path: str) -> None:
        """Serve a client of vla-eval, which keeps its place as a robot does."""
        robot = Robot(connection)
        try:
            session, error = self._policy.session(_variant(path)), None
        except PolicyError as refused:
            session, error = self._policy.session(""), refused
        link = NotedLink(connection, robot.has_asked)
        dialogue = BenchmarkDialogue(self._served(connection, session), link, self._benchmark)
        if error is not None:
            return dialogue.refuse(error)
        if not self._places.take(robot):
            return dialogue.refuse(PolicyError(self._places.refusal))
        try:
            dialogue.run()
        finally:
            self._places.leave(robot)

    def _served(self, connection: ServerConnection, session: Session) -> ServedPolicy:
        return ServedPolicy(session, self._batches, lambda: connection.state is State.OPEN)

    def _dialogue(self, connection: ServerConnection, session: Session) -> Dialogue:
        policy = self._served(connection, session)
        if connection.subprotocol == wire.SUBPROTOCOL:
            return OwnDialogue(policy)
        return OpenpiDialogue(policy, self._translated(session))

    def _decline(self, connection: ServerConnection, error: PolicyError) -> None:
        """Say in the robot's protocol why it is not served."""
        connection.send(self._dialogue(connection, self._policy.session("")).refusal(error))


def _shake_hands(sock: socket.socket) -> None:
    """Begin with TLS, if there is TLS; raises if the client does not."""
    if not isinstance(sock, ssl.SSLSocket):
        return
    sock.settimeout(HEAD_S)
    try:
        sock.do_handshake()
    except OSError as error:  # ssl.SSLError is one
        _LOG.info("a connection without proper TLS was closed: %s", error)
        raise _AnsweredError from error


def check_protected(host: str, has_token: bool, has_tls: bool) -> None:
    """Raise ``InvalidValueError`` unless what other machines reach has a token and TLS."""
    if host in LOOPBACK:
        return
    made = {"--make-token FILE": has_token, "--make-certificate FOLDER": has_tls}
    if missing := [option for option, there in made.items() if not there]:
        raise InvalidValueError(
            f"{host} is reachable from other machines: serving there needs a token and TLS; openvla serve "
            f"{' and openvla serve '.join(missing)} makes what is missing"
            + ("" if has_tls else ", and --without-tls serves unencrypted")
        )


def _variant(path: str) -> str:
    """Return the adapter that the path of an address names; empty for none."""
    return unquote(path.partition("?")[0].strip("/"))


def _newest(connection: ServerConnection, dialogue: Dialogue, data: str | bytes) -> str | bytes:
    """Return the newest of the messages that have arrived; those before it, from ``data`` on, are refused.

    A robot that sends without waiting for answers so gets one that is as new as possible. It cannot keep its
    thread here: only as much is looked at as is read ahead.
    """
    for _ in range(READ_AHEAD):
        try:
            newer = connection.recv(timeout=0)
        except TimeoutError:
            break
        connection.send(dialogue.superseded(data))
        data = newer
    return data


def _own_if_offered(connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return Subprotocol(wire.SUBPROTOCOL) if wire.SUBPROTOCOL in offered else None


def _refuse(exchange: HttpExchange, error: RefusedRequestError) -> NoReturn:
    """Say what is wrong with a request and end its connection."""
    with suppress(OSError):
        exchange.answer(error.status, f"{error}\n".encode())
    raise _AnsweredError
