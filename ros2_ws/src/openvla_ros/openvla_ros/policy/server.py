"""Serves one policy to one robot at a time over a websocket: the machine with the GPU.

Each message is validated like any other input; a client must present the token. Nothing that a client
sends is executed.
"""

from __future__ import annotations

import hmac
import socket
import threading
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from openvla_ros.errors import InvalidValueError, OpenVLARosError
from openvla_ros.policy import wire
from openvla_ros.policy.protocol import Policy

LOOPBACK = ("127.0.0.1", "::1", "localhost")
# Several raw 1280x720 images; larger messages are refused before they are read.
LARGEST_MESSAGE = 64 << 20
# A robot that does not answer a ping within this time is gone: its link may have died silently.
PING_S = 1.0
# How long the next robot waits for a lost robot's inference to finish.
HANDOVER_S = 5.0


class PolicyServer:
    """A websocket server around ``policy``; ``serve_forever`` runs it until ``close``."""

    def __init__(self, policy: Policy, host: str, port: int, token: str = "") -> None:
        """Bind; raises ``InvalidValueError`` for a publicly reachable address without a token."""
        if not token and host not in LOOPBACK:
            raise InvalidValueError(f"{host} is reachable from other machines: serving there needs a token")
        self._policy, self._token = policy, token
        self._busy = threading.Lock()
        self._robot: ServerConnection | None = None  # the robot being served
        try:
            self._server: Server = serve(
                self._serve, host, port, process_request=self._admit, compression=None,
                max_size=LARGEST_MESSAGE, close_timeout=PING_S,
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
        self._server.shutdown()

    def _admit(self, connection: ServerConnection, request: Any) -> Any:
        given = request.headers.get("Authorization", "")
        if self._token and not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            return connection.respond(HTTPStatus.UNAUTHORIZED, "wrong or missing token\n")
        return None

    def _serve(self, connection: ServerConnection) -> None:
        if not self._take_over():
            with suppress(ConnectionClosed):
                connection.send(wire.pack({"error": "PolicyError", "message": "another robot is connected"}))
            return
        self._robot = connection
        try:
            connection.send(wire.pack(self._greeting()))
            for data in connection:
                connection.send(wire.pack(self._answer(data)))
        except ConnectionClosed:
            pass  # the robot has gone; the next one may come
        finally:
            self._robot = None
            self._busy.release()

    def _take_over(self) -> bool:
        """Return whether the next robot may be served: none is connected, or the connected one is gone."""
        if self._busy.acquire(blocking=False):
            return True
        before = self._robot
        if before is not None and not _is_gone(before):
            return False
        return self._busy.acquire(timeout=HANDOVER_S)

    def _greeting(self) -> wire.Message:
        space = wire.space_to_message(self._policy.space)
        return {"protocol": wire.PROTOCOL, "description": self._policy.description, "space": space}

    def _answer(self, data: str | bytes) -> wire.Message:
        try:
            message = wire.unpack(data)
            if message.get("reset"):
                self._policy.reset()
                return {}
            return wire.chunk_to_message(self._policy.infer(wire.observation_from_message(message)))
        except OpenVLARosError as error:
            return {"error": type(error).__name__, "message": str(error)}


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
