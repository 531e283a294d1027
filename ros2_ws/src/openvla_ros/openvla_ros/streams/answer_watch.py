"""How long a policy has not answered: an arm that had to stop for it does not start again by itself."""

from __future__ import annotations

from openvla_ros.values.time import seconds


class AnswerWatch:
    """Watches the questions of one instruction after another.

    The first answer of an instruction may take its time (a new prompt is prepared); a failed question
    and every later answer may not. Pauses in which nothing was asked do not count.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._waiting_since_ns: int | None = None
        self._strict = False

    def begin(self) -> None:
        """Begin with a new instruction."""
        self._waiting_since_ns, self._strict = None, False

    def asked(self, now_ns: int) -> None:
        """Note a question."""
        if self._waiting_since_ns is None:
            self._waiting_since_ns = now_ns

    def failed(self) -> None:
        """Note that a question failed: the policy has still not answered."""
        self._strict = True

    def answered(self, now_ns: int) -> float | None:
        """Note an answer; return for how many seconds there was none if that was too long."""
        silent_s = self.silent_s(now_ns)
        self._waiting_since_ns, self._strict = None, True
        return silent_s

    def silent_s(self, now_ns: int) -> float | None:
        """Return for how many seconds there has been no answer if that is too long, else ``None``."""
        since_ns = self._waiting_since_ns
        if since_ns is None or not self._strict:
            return None
        silent_s = seconds(now_ns - since_ns)
        return silent_s if silent_s > self.limit_s else None
