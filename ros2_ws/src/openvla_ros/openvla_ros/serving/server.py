"""Serves one policy to one robot at a time, on one port: the machine with the GPU.

What the client sends decides the protocol: ours, openpi's or vla-eval's over a websocket, or OpenVLA's
``POST /act``. Each message is validated like any other input; a client must present the token. Nothing that
a client sends is executed.
"""

from __future__ import annotations

import hmac
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any, NoReturn, cast

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

from openvla_ros.errors import InvalidValueError, PolicyError
from openvla_ros.policy.protocol import Policy
from openvla_ros.protocols import act_codec, vla_eval_codec, wire
from openvla_ros.protocols.benchmark_actions import BenchmarkActions
from openvla_ros.protocols.translation import Translation
from openvla_ros.serving.benchmark_dialogue import BenchmarkDialogue
from openvla_ros.serving.dialogues import ActEndpoint, Dialogue, OpenpiDialogue, OwnDialogue
from openvla_ros.serving.http_exchange import Answer, Head, HttpExchange, RefusedRequestError, converse

LOOPBACK = ("127.0.0.1", "::1", "localhost")
# A robot that does not answer a ping within this time is gone: its link may have died silently.
PING_S = 1.0
# How long the next robot waits for a lost robot's inference, or for a request of another, to finish.
HANDOVER_S = 5.0
# Connections that are not a served websocket; one more is closed at once.
MOST_CONNECTIONS = 64
# How a client presents the token: ours, and openpi's.
SCHEMES = ("Bearer", "Api-Key")
BUSY = PolicyError("another robot is connected")
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
        policy: Policy,
        host: str,
        port: int,
        token: str = "",
        translation: Translation | None = None,
        benchmark: BenchmarkActions | None = None,
    ) -> None:
        """Bind; raises ``InvalidValueError`` for a publicly reachable address without a token.

        Without ``translation``, openpi's and OpenVLA's clients are not served. With ``benchmark``, only those
        of vla-eval's clients are that run it.
        """
        if not token and host not in LOOPBACK:
            raise InvalidValueError(f"{host} is reachable from other machines: serving there needs a token")
        self._policy, self._token, self._translation = policy, token, translation
        self._benchmark = benchmark
        self._act = ActEndpoint(policy, translation)
        self._busy = threading.Lock()
        self._robot: ServerConnection | None = None  # the robot being served over a websocket
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._sockets: set[socket.socket] = set()  # of HTTP clients
        self._lock = threading.Lock()
        self._closing = False
        try:
            self._server: Server = serve(
                self._serve, host, port, compression=None, max_size=wire.LARGEST_MESSAGE,
                close_timeout=PING_S, subprotocols=[Subprotocol(wire.SUBPROTOCOL)],
                select_subprotocol=_own_if_offered, create_connection=cast(Any, self._open),
            )  # fmt: skip
        except OSError as error:
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

    # A new connection, on a thread of its own

    def _open(self, sock: socket.socket, *args: Any, **options: Any) -> ServerConnection:
        """Return the websocket on ``sock``; anything else is answered here and raises."""
        exchange = HttpExchange(sock)
        with self._place(sock):
            try:
                head = exchange.head()
                if head is None or not (head.upgrades and self._is_admitted(head)):
                    self._answer_http(exchange, head)
            except RefusedRequestError as error:
                _refuse(exchange, error)
        sock.settimeout(None)
        return _ReadAhead(exchange.taken, sock, *args, **options)

    @contextmanager
    def _place(self, sock: socket.socket) -> Iterator[None]:
        """Hold a place for an HTTP client; raises if all are taken or the server is closing."""
        if not self._places.acquire(blocking=False):
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
            self._places.release()

    def _answer_http(self, exchange: HttpExchange, head: Head | None) -> NoReturn:
        try:
            converse(exchange, lambda asked: self._answer(exchange, asked), head)
        except OSError:
            _LOG.debug("an HTTP client went away")
        raise _AnsweredError

    def _answer(self, exchange: HttpExchange, head: Head) -> Answer:
        if head.path == "/healthz" and head.method in ("GET", "HEAD"):
            exchange.ended()
            return HTTPStatus.OK, b"" if head.method == "HEAD" else b"OK\n", TEXT
        if not self._is_admitted(head):
            return HTTPStatus.UNAUTHORIZED, b"wrong or missing token\n", TEXT
        if head.path != "/act":
            return HTTPStatus.NOT_FOUND, b"here are: websockets, POST /act, GET /healthz\n", TEXT
        if head.method != "POST":
            return HTTPStatus.METHOD_NOT_ALLOWED, b"/act takes POST\n", TEXT
        body = exchange.body(head, wire.LARGEST_MESSAGE)
        return *self._act_in_turn(body), JSON

    def _act_in_turn(self, body: bytes) -> tuple[int, bytes]:
        if not self._take_over():
            return HTTPStatus.SERVICE_UNAVAILABLE, act_codec.error_to_json(BUSY)
        try:
            return self._act.answer(body)
        except Exception:  # noqa: BLE001 - a bug in a policy ends one answer, not the server
            _LOG.exception("answering a request of /act failed")
            failed = PolicyError("the policy failed; the server's log says why")
            return HTTPStatus.INTERNAL_SERVER_ERROR, act_codec.error_to_json(failed)
        finally:
            self._busy.release()

    def _is_admitted(self, head: Head) -> bool:
        if not self._token:
            return True
        given = head.headers.get("authorization", "").encode("latin-1")
        # Every comparison is made, so that the time says nothing.
        return True in [hmac.compare_digest(given, f"{s} {self._token}".encode()) for s in SCHEMES]

    # A websocket

    def _serve(self, connection: ServerConnection) -> None:
        request = connection.request
        if request is not None and request.path == vla_eval_codec.PATH:
            evaluation = BenchmarkDialogue(self._policy, connection, self._benchmark)
            self._converse(connection, evaluation.run, lambda: evaluation.refuse(BUSY))
            return
        dialogue: Dialogue = (
            OwnDialogue(self._policy)
            if connection.subprotocol == wire.SUBPROTOCOL
            else OpenpiDialogue(self._policy, self._translation)
        )

        def answer() -> None:
            connection.send(dialogue.greeting())
            for data in connection:
                connection.send(dialogue.answer(data))

        self._converse(connection, answer, lambda: connection.send(dialogue.refusal(BUSY)))

    def _converse(
        self, connection: ServerConnection, answer: Callable[[], None], refuse: Callable[[], None]
    ) -> None:
        """Run ``answer`` until the client goes; ``refuse`` it if another one is being served."""
        if not self._take_over():
            with suppress(ConnectionClosed):
                refuse()
            return
        self._robot = connection
        try:
            answer()
        except ConnectionClosed:
            pass  # the robot has gone; the next one may come
        finally:
            self._robot = None
            self._busy.release()

    def _take_over(self) -> bool:
        """Return whether the next client may be served: no robot is connected, or the connected one is gone.

        A request over HTTP that is being answered is waited for.
        """
        if self._busy.acquire(blocking=False):
            return True
        before = self._robot
        if before is not None and not _is_gone(before):
            return False
        return self._busy.acquire(timeout=HANDOVER_S)


def _own_if_offered(connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return Subprotocol(wire.SUBPROTOCOL) if wire.SUBPROTOCOL in offered else None


def _refuse(exchange: HttpExchange, error: RefusedRequestError) -> NoReturn:
    """Say what is wrong with a request and end its connection."""
    with suppress(OSError):
        exchange.answer(error.status, f"{error}\n".encode())
    raise _AnsweredError


def _is_gone(connection: ServerConnection) -> bool:
    """Return whether the other side of ``connection`` is gone; if so, the connection is closed."""
    try:
        if connection.ping().wait(PING_S):
            return False
    except (ConnectionClosed, OSError):
        return True
    with suppress(OSError):
        connection.socket.shutdown(socket.SHUT_RDWR)
    return True
