"""What is said with a client of each protocol, as bytes in and bytes out; sockets are in ``server``."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Any, Protocol

from openvla_ros import __version__
from openvla_ros.errors import InvalidValueError, OpenVLARosError, PolicyError
from openvla_ros.policy.protocol import Policy
from openvla_ros.protocols import act_codec, message_codec, wire
from openvla_ros.protocols.translation import Translation
from openvla_ros.serving.batches import BusyError
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.observation import Observation

SERVER = f"openvla_ros {__version__}"
# Of an answer over HTTP to what cannot be served; any other error is the server's own.
STATUS: dict[type[OpenVLARosError], HTTPStatus] = {
    InvalidValueError: HTTPStatus.BAD_REQUEST,
    PolicyError: HTTPStatus.UNPROCESSABLE_ENTITY,
    BusyError: HTTPStatus.SERVICE_UNAVAILABLE,
}
# The answer to a robot that asks again before it was answered.
SUPERSEDED = PolicyError("superseded by a newer message on this connection; ask one thing at a time")


class Dialogue(Protocol):
    """One protocol over a websocket."""

    def greeting(self) -> bytes:
        """Return the first message to a client that is served."""
        ...

    def answer(self, data: str | bytes) -> str | bytes:
        """Return the answer to one message; an error of this package is an answer too."""
        ...

    def superseded(self, data: str | bytes) -> str | bytes:
        """Return the answer to a message that a newer one has followed before it was begun."""
        ...

    def refusal(self, error: OpenVLARosError) -> str | bytes:
        """Return the message that says why something is not done."""
        ...


class OwnDialogue:
    """Our own protocol, with an ``openvla_ros`` robot."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def greeting(self) -> bytes:
        """Return what is served, and the meaning of its actions."""
        space = wire.space_to_message(self._policy.space)
        description = self._policy.description
        return message_codec.pack(
            {"protocol": wire.PROTOCOL, "description": description, "space": space, "server": SERVER}
        )

    def answer(self, data: str | bytes) -> bytes:
        """Return the chunk for an observation, nothing for a reset, or the error."""
        try:
            message = message_codec.unpack(data)
            if message.get("reset"):
                self._policy.reset()
                return message_codec.pack({})
            chunk = self._policy.infer(wire.observation_from_message(message))
            return message_codec.pack(wire.chunk_to_message(chunk))
        except OpenVLARosError as error:
            return self.refusal(error)

    def superseded(self, data: str | bytes) -> bytes:
        """Return that an observation is superseded; a reset is done all the same."""
        try:
            is_reset = bool(message_codec.unpack(data).get("reset"))
        except OpenVLARosError as error:
            return self.refusal(error)
        return self.answer(data) if is_reset else self.refusal(SUPERSEDED)

    def refusal(self, error: OpenVLARosError) -> bytes:
        """Return the error as a message."""
        return message_codec.pack({"error": type(error).__name__, "message": str(error)})


class ForeignPolicyUse:
    """The policy as others' clients use it: they never say that an instruction has ended."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._instruction: str | None = None

    def infer(self, observation: Observation) -> ActionChunk:
        """Return the actions; other words than before are a new instruction."""
        if observation.instruction != self._instruction:
            self._policy.reset()
            self._instruction = observation.instruction
        return self._policy.infer(observation)


class OpenpiDialogue:
    """openpi's protocol: metadata first, then observations for actions; errors are text."""

    def __init__(self, policy: Policy, translation: Translation | None) -> None:
        self._policy, self._translation = policy, translation
        self._use = ForeignPolicyUse(policy)

    def greeting(self) -> bytes:
        """Return the metadata: the server, its policy, the meaning of its actions, the keys it reads."""
        observation_map = None if self._translation is None else self._translation.observation_map
        metadata: dict[str, Any] = {
            "server": SERVER,
            "policy": self._policy.description,
            "action_space": {
                key: value if isinstance(value, str | float | int | list) else value.tolist()
                for key, value in wire.space_to_message(self._policy.space).items()
            },
            "observation_keys": [] if observation_map is None else list(observation_map.keys),
        }
        return message_codec.pack(metadata)

    def answer(self, data: str | bytes) -> str | bytes:
        """Return the actions (T, D) for an observation, or the error as text."""
        try:
            translation = _needed(self._translation)
            observation = translation.from_openpi(message_codec.unpack(data), time.time_ns())
            began = time.perf_counter()
            chunk = self._use.infer(observation)
            timing = {"infer_ms": 1000.0 * (time.perf_counter() - began)}
            return message_codec.pack({"actions": chunk.actions, "server_timing": timing})
        except OpenVLARosError as error:
            return self.refusal(error)

    def superseded(self, data: str | bytes) -> str:
        """Return that the message is superseded."""
        return self.refusal(SUPERSEDED)

    def refusal(self, error: OpenVLARosError) -> str:
        """Return the error as text, which openpi's client raises."""
        return f"{type(error).__name__}: {error}"


class ActEndpoint:
    """OpenVLA's ``POST /act``: one image and one instruction for one action."""

    def __init__(self, policy: Policy, translation: Translation | None) -> None:
        self._translation = translation
        self._use = ForeignPolicyUse(policy)

    def answer(self, body: bytes) -> tuple[int, bytes]:
        """Return the status and the body: the action (D,), of a chunk the first; or the error."""
        try:
            translation = _needed(self._translation)
            request = act_codec.request_from_json(body)
            chunk = self._use.infer(translation.from_act(request, time.time_ns()))
        except OpenVLARosError as error:
            status = STATUS.get(type(error), HTTPStatus.INTERNAL_SERVER_ERROR)
            return status, act_codec.error_to_json(error)
        return HTTPStatus.OK, act_codec.action_to_json(chunk.actions[0], request.encoded)


def _needed(translation: Translation | None) -> Translation:
    if translation is None:
        raise PolicyError("this server was not told the robot: it serves openvla_ros robots only")
    return translation
