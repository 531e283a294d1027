"""A policy that runs on another machine, behind ``openvla serve``."""

from __future__ import annotations

import json

from openvla_ros.errors import InvalidValueError, ModelOutputError, PolicyError
from openvla_ros.policy.websocket_link import WebsocketLink
from openvla_ros.protocols import message_codec, wire
from openvla_ros.values.action import ActionChunk, ActionSpace
from openvla_ros.values.observation import Observation


class RemotePolicy:
    """A client of a policy server; a lost connection fails one step, and is reestablished for the next."""

    def __init__(self, address: str, token: str = "", timeout_s: float = 5.0, fingerprint: str = "") -> None:
        """Connect to ``address`` (ws://host:port or wss://); raises ``PolicyError`` if that fails.

        ``fingerprint`` is the SHA-256 of the server's certificate; without it, an authority must have signed.
        """
        self._address = address
        self._known_space: ActionSpace | None = None
        self._remote_description = self._server = ""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._link = WebsocketLink(
            address, address, headers, timeout_s, self._greet, wire.SUBPROTOCOL, fingerprint
        )

    @property
    def space(self) -> ActionSpace:
        """The action space, as reported by the server."""
        assert self._known_space is not None  # a link exists only after a greeting
        return self._known_space

    @property
    def description(self) -> str:
        """The server and its policy."""
        return f"{self._remote_description} at {self._address}"

    def infer(self, observation: Observation) -> ActionChunk:
        """Return the server's actions; raises ``PolicyError`` if it does not answer in time."""
        answer = self._ask(wire.observation_to_message(observation))
        chunk = wire.chunk_from_message(answer, self.space)
        if chunk.observation_stamp_ns != observation.stamp_ns:  # its age would be that of another image
            self._link.drop()
            raise PolicyError(
                f"{self._address} answers for the image of {chunk.observation_stamp_ns} ns, asked was "
                f"{observation.stamp_ns} ns"
            )
        return chunk

    def reset(self) -> None:
        """Make the server forget the instruction that just ended."""
        self._ask({"reset": True})

    def report(self) -> dict[str, str]:
        """Return the server's name and version and its action space, for the recording."""
        return server_report(self._server, "openvla_ros", self.space)

    def close(self) -> None:
        """Disconnect."""
        self._link.close()

    def _ask(self, message: message_codec.Message) -> message_codec.Message:
        answer = self._link.ask(message_codec.pack(message))
        try:
            return _raised(message_codec.unpack(answer))
        except InvalidValueError:
            self._link.drop()
            raise

    def _greet(self, data: str | bytes) -> None:
        """Hear the server's greeting; one with another action space than before is refused."""
        try:
            greeting = _raised(message_codec.unpack(data))
        except InvalidValueError as error:
            raise PolicyError(f"{self._address} is not a policy server: {error}") from error
        if greeting.get("protocol") != wire.PROTOCOL:
            raise PolicyError(
                f"{self._address} uses protocol {greeting.get('protocol')!r}; this client {wire.PROTOCOL}"
            )
        if missing := [key for key in ("description", "space") if key not in greeting]:
            raise PolicyError(
                f"{self._address} is not a policy server: no {', '.join(missing)} in its greeting"
            )
        space = wire.space_from_message(greeting["space"])
        if self._known_space is not None and (lines := self._known_space.differences(space)):
            raise PolicyError(f"{self._address} now serves a different action space: " + "; ".join(lines))
        self._known_space = self._known_space or space
        self._remote_description = str(greeting["description"])
        self._server = str(greeting.get("server", "not stated"))


def server_report(server: str, protocol: str, space: ActionSpace) -> dict[str, str]:
    """Return what ``/diagnostics``, and with it a recording, says of a policy server."""
    fields = wire.space_to_message(space)
    plain = {key: value.tolist() if hasattr(value, "tolist") else value for key, value in fields.items()}
    return {
        "policy_server": server[:200],
        "policy_server_protocol": protocol,
        "policy_server_action_space": json.dumps(plain),
    }


def _raised(answer: message_codec.Message) -> message_codec.Message:
    """Return ``answer``, or raise the error in it."""
    if "error" in answer:
        kind = ModelOutputError if answer["error"] == "ModelOutputError" else PolicyError
        raise kind(f"policy server: {answer.get('message')}")
    return answer
