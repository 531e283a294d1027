"""A policy behind OpenVLA's own deploy server (``POST /act``): its model on our robot.

The server says nothing of what its actions mean. The action space is the profile's, or that of a manifest
beside the checkpoint.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from contextlib import suppress
from urllib.parse import SplitResult, urlsplit

import numpy as np

from openvla_ros.errors import InvalidValueError, PolicyError
from openvla_ros.policy.openpi_remote import chunk_of
from openvla_ros.policy.remote import server_report
from openvla_ros.protocols import act_codec
from openvla_ros.protocols.tls import client_context, tls_failure
from openvla_ros.protocols.wire import LARGEST_MESSAGE
from openvla_ros.values.action import ActionChunk, ActionSpace
from openvla_ros.values.observation import Observation

SCHEMES = ("act+http", "act+https")
_READ = 64 << 10


class ActPolicy:
    """A client of OpenVLA's deploy server: one image and the words, one action."""

    def __init__(
        self,
        address: str,
        space: ActionSpace,
        camera: str,
        unnorm_key: str = "",
        token: str = "",
        timeout_s: float = 5.0,
        fingerprint: str = "",
    ) -> None:
        """Reach ``address`` (act+http://host:port/act, or act+https://) once; raises ``PolicyError``.

        ``space`` is what the server's actions mean; ``camera`` is the one whose images it is sent;
        ``fingerprint`` is the SHA-256 of its certificate.
        """
        url = urlsplit(address)
        if url.scheme not in SCHEMES or not url.hostname:
            raise InvalidValueError(f"address {address!r}; expected something like act+http://host:8000/act")
        self._address, self._url, self._space, self._camera = address, url, space, camera
        self._unnorm_key, self._token, self._timeout_s = unnorm_key or None, token, timeout_s
        self._tls = client_context(address, fingerprint, is_tls=url.scheme == "act+https")
        self._server = "not stated"
        self._closed = False
        connection = self._connection(url)
        try:
            connection.connect()
        except ssl.SSLError as error:
            raise PolicyError(tls_failure(address, error)) from error
        except OSError as error:
            raise PolicyError(f"{address} cannot be reached: {error}") from error
        finally:
            connection.close()

    @property
    def space(self) -> ActionSpace:
        """What the server's actions mean, as this robot was told."""
        return self._space

    @property
    def description(self) -> str:
        """The server; it does not name its policy."""
        return f"OpenVLA server at {self._address}"

    def infer(self, observation: Observation) -> ActionChunk:
        """Return the server's action; raises ``PolicyError`` if it does not answer in time."""
        if self._closed:
            raise PolicyError(f"{self.description} is closed")
        if self._camera not in observation.images:
            raise PolicyError(
                f"{self.description} needs camera {self._camera!r}; the observation has "
                f"{', '.join(observation.images)}"
            )
        request = act_codec.ActRequest(
            observation.images[self._camera], observation.instruction, self._unnorm_key
        )
        try:
            actions = act_codec.action_from_json(self._post(act_codec.request_to_json(request)))
        except InvalidValueError as error:
            raise PolicyError(f"{self._address}: {error}") from error
        return chunk_of(np.atleast_2d(actions), observation, self._space, self._address)

    def reset(self) -> None:
        """Do nothing: the server keeps nothing between requests."""

    def report(self) -> dict[str, str]:
        """Return what the server states of itself, and the action space, for the recording."""
        return server_report(self._server, "act", self._space)

    def close(self) -> None:
        """Take no more questions."""
        self._closed = True

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        deadline = time.monotonic() + self._timeout_s
        connection = self._connection(self._url)
        # The connection's own limit is for each piece that arrives, however small.
        whole = threading.Timer(self._timeout_s, _cut, (connection,))
        whole.daemon = True
        whole.start()
        try:
            connection.request("POST", self._url.path or "/", body, headers)
            response = connection.getresponse()
            self._server = response.getheader("Server", "not stated")
            answer = self._read(response, deadline)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, TimeoutError) or time.monotonic() >= deadline:
                raise PolicyError(f"{self._address} did not answer within {self._timeout_s:g} s") from error
            raise PolicyError(f"the connection to {self._address} was lost: {error}") from error
        finally:
            whole.cancel()
            connection.close()
        if response.status != http.client.OK:
            said = answer[:300].decode("utf-8", "replace").strip()
            raise PolicyError(f"{self._address} answered {response.status} {response.reason}: {said}")
        return answer

    def _read(self, response: http.client.HTTPResponse, deadline: float) -> bytes:
        answer = bytearray()
        while data := response.read1(_READ):
            answer += data
            if len(answer) > LARGEST_MESSAGE:
                raise PolicyError(f"{self._address} answers with more than {LARGEST_MESSAGE} bytes")
            if time.monotonic() > deadline:
                break
        if time.monotonic() > deadline:  # what was cut off looks like an end
            raise TimeoutError
        return bytes(answer)

    def _connection(self, url: SplitResult) -> http.client.HTTPConnection:
        try:
            if self._tls is None:
                return http.client.HTTPConnection(url.hostname or "", url.port, timeout=self._timeout_s)
            return http.client.HTTPSConnection(
                url.hostname or "", url.port, timeout=self._timeout_s, context=self._tls
            )
        except (ValueError, http.client.InvalidURL) as error:
            raise InvalidValueError(f"address {self._address!r}: {error}") from error


def _cut(connection: http.client.HTTPConnection) -> None:
    """End a connection whose time is over: whoever reads from it goes on with an error."""
    if connection.sock is not None:
        with suppress(OSError):  # it has ended meanwhile
            socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)
