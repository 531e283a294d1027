"""Tracks how long a policy has not answered: an arm that stopped because of it must not restart by itself."""

from __future__ import annotations

from openvla_ros.values.time import seconds


class AnswerWatch:
    """Tracks the requests of one instruction after another.

    The first answer of an instruction may take long (a new prompt is prepared); later ones, and those after a
    failed request, may not. Pauses without a request do not count.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._waiting_since_ns: int | None = None
        self._strict = False

    def begin(self) -> None:
        """Begin with a new instruction."""
        self._waiting_since_ns, self._strict = None, False

    def asked(self, now_ns: int) -> None:
        """Note a request."""
        if self._waiting_since_ns is None:
            self._waiting_since_ns = now_ns

    def failed(self) -> None:
        """Note that a request failed: the policy has still not answered."""
        self._strict = True

    def answered(self, now_ns: int) -> float | None:
        """Note an answer; if it took too long, return how long, seconds, else ``None``."""
        silent_s = self.silent_s(now_ns)
        self._waiting_since_ns, self._strict = None, True
        return silent_s

    def silent_s(self, now_ns: int) -> float | None:
        """If the policy has not answered for too long, return how long, seconds, else ``None``."""
        since_ns = self._waiting_since_ns
        if since_ns is None or not self._strict:
            return None
        silent_s = seconds(now_ns - since_ns)
        return silent_s if silent_s > self.limit_s else None
