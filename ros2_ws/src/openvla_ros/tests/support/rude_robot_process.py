"""A robot that misbehaves at a policy server, as a process of its own: how, address, message in hex."""

import struct
import sys
import threading
import time
from collections.abc import Iterator

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

KEY = b"\0\0\0\0"  # of a frame's mask: none


def told() -> None:
    sys.stdout.write("rude\n")
    sys.stdout.flush()


def rude(connection: ClientConnection, how: str, message: bytes) -> None:
    def half() -> Iterator[bytes]:
        yield message[: len(message) // 2]
        told()
        time.sleep(1000)

    connection.recv()
    if how == "hangs":  # with half a message sent; its library goes on answering pings
        connection.send(half())
    told()
    if how == "floods":  # and reads what comes back
        threading.Thread(target=lambda: [None for _ in connection], daemon=True).start()
        while True:
            connection.send(message)
    frame = b"\x82\xfe" + struct.pack(">H", len(message)) + KEY + message
    while how == "floods deaf":  # and never reads
        connection.socket.sendall(100 * frame)
    connection.send(message)  # dies when it has asked
    time.sleep(0.005)
    connection.socket.close()


def main() -> None:
    how, address, message = sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3])
    while True:
        try:
            with connect(address, subprotocols=["openvla_ros.2"], compression=None) as connection:
                rude(connection, how, message)
        except (WebSocketException, OSError):  # the server has let go of it
            if how != "dies":
                time.sleep(1000)


if __name__ == "__main__":
    main()
