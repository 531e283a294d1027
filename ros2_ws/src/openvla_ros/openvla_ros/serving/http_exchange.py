"""HTTP/1.1 on one accepted connection: heads and bodies within limits, read before a deadline.

h11 parses; nothing here knows what a request is for. A websocket's handshake is a request too: ``taken``
keeps its bytes for whoever continues.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

import h11

from openvla_ros.errors import InvalidValueError

LARGEST_HEAD = 16 << 10
HEAD_S = 10.0  # for a request line and its headers; also how long a kept connection may be idle
BODY_S = 30.0
DRAIN_S = 2.0  # for what a refused client is still sending
_READ = 64 << 10


class RefusedRequestError(InvalidValueError):
    """A request that is answered with ``status`` and not read further."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Head:
    """The first part of a request."""

    method: str
    path: str
    headers: dict[str, str]  # lower-case names; of several of one name the last

    @property
    def upgrades(self) -> bool:
        """Whether this is the handshake of a websocket."""
        return "websocket" in self.headers.get("upgrade", "").lower()


class HttpExchange:
    """Requests of one client, one after another."""

    def __init__(self, sock: socket.socket) -> None:
        self.taken = b""  # every byte read so far
        self._socket = sock
        self._keep = True  # whether bytes are kept in ``taken``
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=LARGEST_HEAD)

    def head(self) -> Head | None:
        """Return the next request, or None when the client has gone or stays silent.

        Raises ``RefusedRequestError`` if it is no request.
        """
        event = self._next(time.monotonic() + HEAD_S)
        if not isinstance(event, h11.Request):
            return None
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}
        return Head(event.method.decode("ascii"), event.target.decode("ascii"), headers)

    def body(self, head: Head, most: int) -> bytes:
        """Return the body of the request; raises ``RefusedRequestError`` if it exceeds ``most`` bytes."""
        self._keep, self.taken = False, b""
        self._check_size(int(head.headers.get("content-length", 0)), most)
        if self._http.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=HTTPStatus.CONTINUE, headers=[], reason=b"Continue")
            self._send(go_on)
        deadline, body = time.monotonic() + BODY_S, bytearray()
        while isinstance(event := self._next(deadline), h11.Data):
            body += event.data
            self._check_size(len(body), most)
        if not isinstance(event, h11.EndOfMessage):
            raise RefusedRequestError(HTTPStatus.REQUEST_TIMEOUT, f"no whole body within {BODY_S:g} s")
        return bytes(body)

    def answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> bool:
        """Send the answer; return whether another request may follow on this connection."""
        headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
        unread = self._http.their_state is not h11.DONE
        if unread:
            headers.append(("Connection", "close"))
        self._socket.settimeout(BODY_S)
        self._send(h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase))
        self._send(h11.Data(data=body))
        self._send(h11.EndOfMessage())
        if unread:
            self._drain()
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    def ended(self) -> None:
        """Read the end of a request without a body; raises ``RefusedRequestError`` if it has one."""
        if not isinstance(self._next(time.monotonic() + HEAD_S), h11.EndOfMessage):
            raise RefusedRequestError(HTTPStatus.BAD_REQUEST, "this request takes no body")

    def _drain(self) -> None:
        """Read what the client is still sending, for a while: it would lose the answer otherwise."""
        self._socket.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + DRAIN_S
        with suppress(TimeoutError):
            while (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(_READ):
                    return

    @staticmethod
    def _check_size(size: int, most: int) -> None:
        if size > most:
            message = f"a body of {size} bytes; at most {most} are read"
            raise RefusedRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)

    def _next(self, deadline: float) -> object:
        """Return h11's next event; None if the client stays silent until ``deadline``."""
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._socket.settimeout(left)
                data = self._socket.recv(_READ)
                if self._keep:
                    self.taken += data
                self._http.receive_data(data)
            return event
        except TimeoutError:
            return None
        except h11.RemoteProtocolError as error:
            raise RefusedRequestError(error.error_status_hint, f"not a request: {error}") from error

    def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._socket.sendall(data)


Answer = tuple[int, bytes, str]  # status, body, content type


def converse(exchange: HttpExchange, answer: Callable[[Head], Answer], first: Head | None) -> None:
    """Answer requests, the ``first`` of them already read, until the client goes or breaks a rule."""
    head = first
    while head is not None and exchange.answer(*answer(head)):
        head = exchange.head()
