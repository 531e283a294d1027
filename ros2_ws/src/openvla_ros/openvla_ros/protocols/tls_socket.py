"""A TLS connection that one thread reads while another writes.

An ``SSL`` object of OpenSSL is not for two threads at a time, and ``ssl.SSLSocket`` does nothing about it in
the oldest Python that this package supports. A websocket does just that: one thread waits for data, others
send. A session ticket of TLS 1.3 that arrives while the request goes out can so cost the request, and both
sides wait for each other. Here the object belongs to one thread at a time, and nobody waits for the network
while it has it.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

_T = TypeVar("_T")


class DuplexTlsSocket(ssl.SSLSocket):
    """What ``SSLContext.wrap_socket`` returns where ``sslsocket_class`` is this class.

    After the handshake the descriptor does not block; ``recv``, ``send`` and ``sendall`` wait as long as
    ``settimeout`` says, and raise ``TimeoutError`` then.
    """

    # ssl.SSLSocket makes its instances without __init__. Each is None until the handshake is done.
    _turn: threading.Lock | None = None  # of the SSL object
    _writing: threading.Lock | None = None  # what is begun to be written is written first
    _limit_s: float | None = None
    send_limit_s: float | None = None  # of each part that is sent, in place of ``settimeout``'s

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands, on one thread; from then on the socket is for two."""
        super().do_handshake(block)
        self._limit_s = super().gettimeout()
        super().settimeout(0.0)
        self._turn, self._writing = threading.Lock(), threading.Lock()

    def settimeout(self, value: float | None) -> None:
        """Set how long one call waits in s; None is for ever."""
        if self._turn is None:
            super().settimeout(value)
        self._limit_s = value

    def gettimeout(self) -> float | None:
        """Return how long one call waits in s; None is for ever."""
        return super().gettimeout() if self._turn is None else self._limit_s

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Return at most ``buflen`` bytes; none at the end."""
        return self._in_turn(lambda: super(DuplexTlsSocket, self).recv(buflen, flags), select.POLLIN)

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """Receive into ``buffer``; return how many bytes, 0 at the end."""
        return self._in_turn(
            lambda: super(DuplexTlsSocket, self).recv_into(buffer, nbytes, flags), select.POLLIN
        )

    def send(self, data: Any, flags: int = 0) -> int:
        """Send a part of ``data``; return its bytes."""
        if self._writing is None:
            return super().send(data, flags)
        with self._writing:
            return self._send(data, flags)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send ``data``; the limit is for each part that goes out."""
        if self._writing is None:
            super().sendall(data, flags)
            return
        with self._writing, memoryview(data) as view, view.cast("B") as left:
            sent = 0
            while sent < len(left):
                sent += self._send(left[sent:], flags)

    def shutdown(self, how: int) -> None:
        """End one or both directions; whoever waits is woken."""
        if self._turn is None:
            super().shutdown(how)
            return
        with self._turn:
            super().shutdown(how)

    def close(self) -> None:
        """Close; whoever waits is woken."""
        if self._turn is not None:
            with suppress(OSError):  # it may be closed, or the other side may have left
                socket.socket.shutdown(self, socket.SHUT_RDWR)
        super().close()

    def _send(self, data: Any, flags: int) -> int:
        step = partial(super().send, data, flags)
        return self._in_turn(step, select.POLLOUT, self.send_limit_s)

    def _in_turn(self, step: Callable[[], _T], awaited: int, limit_s: float | None = None) -> _T:
        """Return what ``step`` returns once the network lets it; ``awaited`` is what it may lack.

        ``limit_s`` takes the place of the socket's own time limit.
        """
        if self._turn is None:
            return step()
        limit_s = self._limit_s if limit_s is None else limit_s
        deadline = None if limit_s is None else time.monotonic() + limit_s
        while True:
            with self._turn:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    lacks = select.POLLIN
                except ssl.SSLWantWriteError:
                    lacks = select.POLLOUT
                except BlockingIOError:  # after shutdown the socket is a plain one
                    lacks = awaited
            self._wait(lacks, deadline)

    def _wait(self, lacks: int, deadline: float | None) -> None:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError("timed out")
        descriptor = self.fileno()
        if descriptor < 0:
            raise OSError(errno.EBADF, "the connection was closed")
        poller = select.poll()
        poller.register(descriptor, lacks)
        if not poller.poll(None if left is None else max(1.0, left * 1e3)):
            raise TimeoutError("timed out")
