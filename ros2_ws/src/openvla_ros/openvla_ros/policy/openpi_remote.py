"""A policy behind a server of openpi's: its model on our robot.

openpi's protocol does not say what actions mean. The action space is the profile's, or that of a manifest
beside the checkpoint; what the server does say of it must agree. A server of a LeRobot policy must say it.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from openvla_ros.errors import InvalidValueError, ModelOutputError, PolicyError
from openvla_ros.policy.remote import server_report
from openvla_ros.policy.websocket_link import WebsocketLink
from openvla_ros.profile import RobotProfile
from openvla_ros.protocols import message_codec
from openvla_ros.protocols.observation_map import ObservationMap, available_maps, load_observation_map
from openvla_ros.protocols.server_statement import ServerStatement, read_statement
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
        observation_map: ObservationMap | None = None,
        token: str = "",
        timeout_s: float = 5.0,
        fingerprint: str = "",
    ) -> None:
        """Connect to ``address`` (openpi://host:port, or openpis:// over TLS, with ``fingerprint``).

        ``space`` is what the server's actions mean. Without ``observation_map``, the keys are those that the
        server states, else those of the profile's map. Raises ``PolicyError`` if connecting fails or the
        server states another space, other cameras or another state than the robot's.
        """
        self._address, self._profile, self._space, self._given_map = address, profile, space, observation_map
        self._metadata: dict[str, Any] = {}
        self._stated, self._map = ServerStatement(), observation_map
        headers = {"Authorization": f"Api-Key {token}"} if token else {}
        scheme = next((s for s in SCHEMES if address.startswith(s)), None)
        if scheme is None:
            raise InvalidValueError(f"address {address!r}; expected something like openpi://host:8000")
        uri = SCHEMES[scheme] + address.removeprefix(scheme)
        self._link = WebsocketLink(address, uri, headers, timeout_s, self._greet, fingerprint=fingerprint)

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
        assert self._map is not None  # a link exists only after a greeting
        answer = self._ask(self._map.to_message(observation, self._profile))
        return chunk_of(answer.get(ACTIONS), observation, self._space, self._address)

    def reset(self) -> None:
        """Make the server forget the instruction that just ended, if it has a message for that.

        openpi's own has none: it keeps nothing, and the words are sent each time.
        """
        if self._stated.takes_resets:
            self._ask({"reset": True})

    def report(self) -> dict[str, str]:
        """Return the server's metadata and the action space, for the recording."""
        named = self._metadata.get("server", "openpi server")
        report = server_report(str(named), "openpi", self._space)
        return {**report, "policy_server_metadata": _plain(self._metadata)}

    def close(self) -> None:
        """Disconnect."""
        self._link.close()

    def _ask(self, message: message_codec.Message) -> message_codec.Message:
        answer = self._link.ask(message_codec.pack(message))
        if isinstance(answer, str):  # an error; openpi's server closes the connection after it
            self._link.drop()
            raise PolicyError(f"policy server {self._address}: {_last_line(answer)}")
        try:
            return message_codec.unpack(answer)
        except InvalidValueError as error:
            self._link.drop()
            raise PolicyError(f"{self._address}: {error}") from error

    def _greet(self, data: str | bytes) -> None:
        try:
            metadata = message_codec.unpack(data)
        except InvalidValueError as error:
            raise PolicyError(f"{self._address} is not an openpi server: {error}") from error
        stated = read_statement(metadata, self._profile, self._address)
        if stated.action_space is not None and (lines := self._space.differences(stated.action_space)):
            raise PolicyError(f"{self._address} serves another action space: " + "; ".join(lines))
        used = self._given_map or stated.observation_map or self._map_of_profile()
        stated.check_map(used, self._profile, self._address)
        self._metadata, self._stated, self._map = metadata, stated, used

    def _map_of_profile(self) -> ObservationMap:
        if not self._profile.observation_map:
            raise InvalidValueError(
                f"robot {self._profile.name} has no observation map, which says what {self._address} is "
                f"sent; set observation_map to one of {', '.join(available_maps())} or a YAML file"
            )
        return load_observation_map(self._profile.observation_map, self._profile)


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
