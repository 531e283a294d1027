"""A policy that runs on another machine, behind ``openvla serve``."""

from __future__ import annotations

from contextlib import ExitStack

from websockets.exceptions import InvalidHandshake, InvalidURI, WebSocketException
from websockets.sync.client import ClientConnection, connect

from openvla_ros.errors import InvalidValueError, ModelOutputError, PolicyError
from openvla_ros.policy import wire
from openvla_ros.policy.server import LARGEST_MESSAGE
from openvla_ros.values.action import ActionChunk, ActionSpace
from openvla_ros.values.observation import Observation

CONNECT_S = 10.0
CLOSE_S = 0.5  # timeout of the closing handshake, for a server that hangs


class RemotePolicy:
    """A client of a policy server; a lost connection fails one step, and is reestablished for the next."""

    def __init__(self, address: str, token: str = "", timeout_s: float = 5.0) -> None:
        """Connect to ``address`` (ws://host:port or wss://); raises ``PolicyError`` if that fails."""
        self._address, self._token, self._timeout_s = address, token, timeout_s
        self._closed = False
        self._connect_s = CONNECT_S
        self._connection: ClientConnection | None = None
        self._open = ExitStack()  # holds the connection
        greeting = self._connect()
        self._connect_s = min(CONNECT_S, timeout_s)  # reconnecting counts toward the timeout of the answer
        self._space = wire.space_from_message(greeting["space"])
        self._remote_description = str(greeting["description"])

    @property
    def space(self) -> ActionSpace:
        """The action space, as reported by the server."""
        return self._space

    @property
    def description(self) -> str:
        """The server and its policy."""
        return f"{self._remote_description} at {self._address}"

    def infer(self, observation: Observation) -> ActionChunk:
        """Return the server's actions; raises ``PolicyError`` if it does not answer in time."""
        answer = self._ask(wire.observation_to_message(observation))
        return wire.chunk_from_message(answer, self._space)

    def reset(self) -> None:
        """Make the server forget the instruction that just ended."""
        self._ask({"reset": True})

    def close(self) -> None:
        """Disconnect."""
        self._closed = True
        self._drop()

    def _ask(self, message: wire.Message) -> wire.Message:
        if self._closed:
            raise PolicyError(f"{self.description} is closed")
        if self._connection is None:
            self._check_unchanged(self._connect())
        assert self._connection is not None
        try:
            self._connection.send(wire.pack(message))
            answer = wire.unpack(self._connection.recv(self._timeout_s))
        except TimeoutError as error:
            # A late answer must not be mistaken for that of the next request.
            self._drop()
            raise PolicyError(f"{self._address} did not answer within {self._timeout_s:g} s") from error
        except (WebSocketException, OSError) as error:
            self._drop()
            raise PolicyError(f"the connection to {self._address} was lost: {error}") from error
        return _raised(answer)

    def _connect(self) -> wire.Message:
        """Connect and return the server's greeting; on failure nothing stays open."""
        self._connection = self._dial()
        try:
            return self._greet(self._connection)
        except BaseException:
            self._drop()
            raise

    def _greet(self, connection: ClientConnection) -> wire.Message:
        try:
            greeting = _raised(wire.unpack(connection.recv(self._connect_s)))
        except InvalidValueError as error:
            raise PolicyError(f"{self._address} is not a policy server: {error}") from error
        except (WebSocketException, OSError) as error:
            raise PolicyError(f"handshake with {self._address} failed: {error}") from error
        if greeting.get("protocol") != wire.PROTOCOL:
            raise PolicyError(
                f"{self._address} uses protocol {greeting.get('protocol')!r}; this client {wire.PROTOCOL}"
            )
        if missing := [key for key in ("description", "space") if key not in greeting]:
            raise PolicyError(
                f"{self._address} is not a policy server: no {', '.join(missing)} in its greeting"
            )
        return greeting

    def _dial(self) -> ClientConnection:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else None
        try:
            dial = connect(
                self._address, additional_headers=headers, compression=None, open_timeout=self._connect_s,
                close_timeout=CLOSE_S, max_size=LARGEST_MESSAGE,
            )  # fmt: skip
            return self._open.enter_context(dial)
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

    def _check_unchanged(self, greeting: wire.Message) -> None:
        lines = self._space.differences(wire.space_from_message(greeting["space"]))
        if lines:
            self._drop()
            raise PolicyError(f"{self._address} now serves a different action space: " + "; ".join(lines))

    def _drop(self) -> None:
        self._connection = None
        self._open.close()


def _raised(answer: wire.Message) -> wire.Message:
    """Return ``answer``, or raise the error in it."""
    if "error" in answer:
        kind = ModelOutputError if answer["error"] == "ModelOutputError" else PolicyError
        raise kind(f"policy server: {answer.get('message')}")
    return answer
