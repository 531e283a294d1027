"""One websocket to a policy server: questions and answers, each within its time; reconnected when lost.

Knows nothing of what is said: that is given as bytes and text.
"""

from __future__ import annotations

import ssl
import struct
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from socket import SO_SNDTIMEO, SOL_SOCKET, socket

from websockets.exceptions import InvalidHandshake, InvalidURI, WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from openvla_ros.errors import InvalidValueError, PolicyError
from openvla_ros.protocols.tls import client_context, tls_failure
from openvla_ros.protocols.tls_socket import DuplexTlsSocket
from openvla_ros.protocols.wire import LARGEST_MESSAGE

CONNECT_S = 10.0
CLOSE_S = 0.5  # timeout of the closing handshake, for a server that hangs


class WebsocketLink:
    """A connection that fails one question when it is lost, and is made anew for the next."""

    def __init__(
        self,
        address: str,
        uri: str,
        headers: Mapping[str, str],
        timeout_s: float,
        greeted: Callable[[str | bytes], None],
        subprotocol: str = "",
        fingerprint: str = "",
    ) -> None:
        """Connect to ``uri``; ``address`` names it in errors, ``fingerprint`` is its certificate's.

        ``greeted`` is called with the server's first message on every connection, and raises to refuse it.
        Raises ``InvalidValueError`` for an address that is none, and ``PolicyError`` if connecting fails.
        """
        self._address, self._uri, self._headers = address, uri, dict(headers)
        self._timeout_s, self._greeted = timeout_s, greeted
        self._subprotocols = [Subprotocol(subprotocol)] if subprotocol else None
        self._tls = client_context(address, fingerprint, is_tls=uri.startswith("wss://"))
        self._closed = False
        self._connect_s = CONNECT_S
        self._connection: ClientConnection | None = None
        self._open = ExitStack()  # holds the connection
        self._connect()
        self._connect_s = min(CONNECT_S, timeout_s)  # reconnecting counts toward the timeout of the answer

    def ask(self, data: bytes) -> str | bytes:
        """Return the answer to ``data``; raises ``PolicyError`` if there is none in time."""
        if self._closed:
            raise PolicyError(f"the connection to {self._address} is closed")
        connection = self._connection or self._connect()
        try:
            connection.send(data)
            return connection.recv(self._timeout_s)
        except TimeoutError as error:
            # A late answer must not be mistaken for that of the next request.
            self.drop()
            raise PolicyError(f"{self._address} did not answer within {self._timeout_s:g} s") from error
        except (WebSocketException, OSError) as error:
            self.drop()
            raise PolicyError(f"the connection to {self._address} was lost: {error}") from error

    def drop(self) -> None:
        """Disconnect; the next question connects anew."""
        self._connection = None
        self._open.close()

    def close(self) -> None:
        """Disconnect for good."""
        self._closed = True
        self.drop()

    def _connect(self) -> ClientConnection:
        """Connect and hear the server's greeting; on failure nothing stays open."""
        self._connection = connection = self._dial()
        try:
            self._greeted(self._first_message(connection))
        except BaseException:
            self.drop()
            raise
        return connection

    def _first_message(self, connection: ClientConnection) -> str | bytes:
        try:
            return connection.recv(self._connect_s)
        except (WebSocketException, OSError) as error:
            raise PolicyError(f"handshake with {self._address} failed: {error}") from error

    def _dial(self) -> ClientConnection:
        try:
            dial = connect(
                self._uri, additional_headers=self._headers or None, compression=None,
                open_timeout=self._connect_s, close_timeout=CLOSE_S, max_size=LARGEST_MESSAGE,
                subprotocols=self._subprotocols, ssl=self._tls,
            )  # fmt: skip
            connection = self._open.enter_context(dial)
            with suppress(OSError):  # the server has left already: its first message says why
                _limit_sends(connection.socket, self._timeout_s)
            return connection
        except ssl.SSLError as error:
            raise PolicyError(tls_failure(self._address, error)) from error
        except (InvalidURI, ValueError) as error:
            raise InvalidValueError(
                f"address {self._address!r}: {error}; expected something like ws://host:8765"
            ) from error
        except InvalidHandshake as error:
            raise PolicyError(
                f"{self._address} refused the connection: {error}; is the token right?"
            ) from error
        except (WebSocketException, OSError) as error:
            raise PolicyError(f"{self._address} cannot be reached: {error}") from error


def _limit_sends(connection: socket, limit_s: float) -> None:
    """Let a send fail once nothing of it has gone out for so long; a server may have stopped reading.

    The time limit of the socket itself would end the thread that waits for answers.
    """
    if isinstance(connection, DuplexTlsSocket):
        connection.send_limit_s = limit_s
    else:
        seconds = int(limit_s)
        microseconds = int(1e6 * (limit_s - seconds))
        connection.setsockopt(SOL_SOCKET, SO_SNDTIMEO, struct.pack("ll", seconds, microseconds))
