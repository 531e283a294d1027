"""Service calls that must succeed one after the other, without ever blocking the executor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.task import Future


@dataclass(frozen=True)
class Call:
    """One request to one service; its response has a field ``success``."""

    service: str
    type: Any
    request: Any


class ServiceSequence:
    """Makes each call once the previous one has succeeded; poll ``progress``."""

    def __init__(self, node: Node, calls: Sequence[Call]) -> None:
        self._node, self._waiting = node, list(calls)
        self._client: Any = None
        self._future: Future | None = None
        self._problem: str | None = None

    def progress(self) -> str | None:
        """Continue as far as possible now; return what is still missing, or ``None`` when all succeeded."""
        if self._future is not None and self._future.done():
            self._finish(self._future)
        if not self._waiting:
            return None
        call = self._waiting[0]
        if self._client is None:
            self._client = self._node.create_client(call.type, call.service)
        if self._future is None:
            if not self._client.service_is_ready():
                return f"the service {call.service} is not available"
            self._future = self._client.call_async(call.request)
        return self._problem or f"{call.service} has not answered yet"

    def close(self) -> None:
        """Make no further calls, and wait for no answer."""
        self._waiting, self._future = [], None
        if self._client is not None:
            self._node.destroy_client(self._client)
        self._client = None

    def _finish(self, future: Future) -> None:
        call, response = self._waiting[0], future.result()
        self._future = None
        if not response.success:
            self._problem = f"{call.service} refused: {getattr(response, 'message', '') or 'no reason given'}"
            return
        self._problem = None
        self._waiting.pop(0)
        self._node.destroy_client(self._client)
        self._client = None
