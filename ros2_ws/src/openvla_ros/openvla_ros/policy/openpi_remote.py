"""A policy behind a server of openpi's: its model on our robot.

openpi's protocol does not say what actions mean. The action space is the profile's, or that of a manifest
beside the checkpoint; what the server does say of it must agree.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from openvla_ros.errors import InvalidValueError, ModelOutputError, PolicyError
from openvla_ros.policy.remote import server_report
from openvla_ros.policy.websocket_link import WebsocketLink
from openvla_ros.profile import RobotProfile
from openvla_ros.protocols import message_codec, wire
from openvla_ros.protocols.observation_map import ObservationMap
from openvla_ros.values.action import ActionChunk, ActionSpace
from openvla_ros.values.observation import Observation

SCHEMES = {"openpi://": "ws://", "openpis://": "wss://"}
ACTIONS = "actions"


class OpenpiPolicy:
    """A client of an openpi server; a lost connection fails one step, and is reestablished for the next."""

    def __init__(
        self,
        address: str,
        profile: RobotProfile,
        space: ActionSpace,
        observation_map: ObservationMap,
        token: str = "",
        timeout_s: float = 5.0,
    ) -> None:
        """Connect to ``address`` (openpi://host:port, or openpis:// over TLS).

        ``space`` is what the server's actions mean. Raises ``PolicyError`` if connecting fails or the server
        states another space.
        """
        self._address, self._profile, self._space, self._map = address, profile, space, observation_map
        self._metadata: dict[str, Any] = {}
        headers = {"Authorization": f"Api-Key {token}"} if token else {}
        scheme = next((s for s in SCHEMES if address.startswith(s)), None)
        if scheme is None:
            raise InvalidValueError(f"address {address!r}; expected something like openpi://host:8000")
        uri = SCHEMES[scheme] + address.removeprefix(scheme)
        self._link = WebsocketLink(address, uri, headers, timeout_s, self._greet)

    @property
    def space(self) -> ActionSpace:
        """What the server's actions mean, as this robot was told."""
        return self._space

    @property
    def description(self) -> str:
        """The server, and its policy where the server names it."""
        return f"{self._metadata.get('policy', 'openpi policy')} at {self._address}"

    def infer(self, observation: Observation) -> ActionChunk:
        """Return the server's actions; raises ``PolicyError`` if it does not answer in time."""
        message = self._map.to_message(observation, self._profile)
        answer = self._link.ask(message_codec.pack(message))
        if isinstance(answer, str):  # an error; openpi's server closes the connection after it
            self._link.drop()
            raise PolicyError(f"policy server {self._address}: {_last_line(answer)}")
        try:
            actions = message_codec.unpack(answer).get(ACTIONS)
        except InvalidValueError as error:
            self._link.drop()
            raise PolicyError(f"{self._address}: {error}") from error
        return chunk_of(actions, observation, self._space, self._address)

    def reset(self) -> None:
        """Do nothing: the protocol has no message for it, and the words are sent each time."""

    def report(self) -> dict[str, str]:
        """Return the server's metadata and the action space, for the recording."""
        named = self._metadata.get("server", "openpi server")
        report = server_report(str(named), "openpi", self._space)
        return {**report, "policy_server_metadata": _plain(self._metadata)}

    def close(self) -> None:
        """Disconnect."""
        self._link.close()

    def _greet(self, data: str | bytes) -> None:
        try:
            metadata = message_codec.unpack(data)
        except InvalidValueError as error:
            raise PolicyError(f"{self._address} is not an openpi server: {error}") from error
        stated = metadata.get("action_space")
        if stated is not None:
            lines = self._space.differences(wire.space_from_message(stated))
            if lines:
                raise PolicyError(f"{self._address} serves another action space: " + "; ".join(lines))
        self._metadata = metadata


def chunk_of(actions: object, observation: Observation, space: ActionSpace, address: str) -> ActionChunk:
    """Return a server's actions (T, D) as a chunk; raises ``ModelOutputError`` if ``space`` has others."""
    if not isinstance(actions, np.ndarray) or actions.ndim != 2 or actions.shape[1] != space.width:
        found = f"{actions.shape}" if isinstance(actions, np.ndarray) else type(actions).__name__
        raise ModelOutputError(
            f"{address}: actions {found}; this robot's are (steps, {space.width}): {', '.join(space.names)}"
        )
    try:
        return ActionChunk(actions.astype(np.float64), observation.stamp_ns, space)
    except (InvalidValueError, ValueError) as error:
        raise ModelOutputError(f"{address}: {error}") from error


def _last_line(text: str) -> str:
    """Return the last line of a traceback, which names the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "an error without a message"


def _plain(metadata: dict[str, Any]) -> str:
    return json.dumps(metadata, default=lambda value: np.asarray(value).tolist())[:2000]
