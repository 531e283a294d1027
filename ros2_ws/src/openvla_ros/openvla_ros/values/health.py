"""Health of message streams: measured rate, age, and lost or refused messages.

Pure bookkeeping on nanosecond stamps; the nodes publish it on ``/diagnostics``, the recorder stores it as
warnings with an episode.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from openvla_ros.values.time import seconds

Level = Literal["ok", "warn", "error", "stale"]


@dataclass(frozen=True)
class Health:
    """The state of one component: a level, one line for people, and values for programs."""

    name: str
    level: Level
    message: str
    values: dict[str, str]


class StreamHealth:
    """Compares one stream with its nominal rate and age limit from the profile."""

    def __init__(self, name: str, rate_hz: float, max_age_s: float, window: int = 100) -> None:
        self.name, self.rate_hz, self.max_age_s = name, rate_hz, max_age_s
        self._stamps: deque[int] = deque(maxlen=window)
        self._ages: deque[float] = deque(maxlen=window)
        self.received_count = 0
        self.gaps = 0  # periods without a message
        self.backwards = 0  # messages older than the one before

    def received(self, stamp_ns: int, now_ns: int) -> None:
        """Note a message with header stamp ``stamp_ns`` that arrived at ``now_ns``."""
        if self._stamps:
            delta = seconds(stamp_ns - self._stamps[-1])
            self.backwards += delta < 0
            self.gaps += max(0, round(delta * self.rate_hz) - 1)
        self.received_count += 1
        self._stamps.append(stamp_ns)
        self._ages.append(seconds(now_ns - stamp_ns))

    def age_s(self, now_ns: int) -> float | None:
        """Seconds from the newest message's stamp to ``now_ns``; ``None`` before the first one."""
        return seconds(now_ns - self._stamps[-1]) if self._stamps else None

    def measured_rate_hz(self) -> float:
        """Rate over the window, Hz, from the messages' stamps; 0 while unknown."""
        if len(self._stamps) < 2:
            return 0.0
        span = seconds(self._stamps[-1] - self._stamps[0])
        return (len(self._stamps) - 1) / span if span > 0 else 0.0

    def health(self, now_ns: int) -> Health:
        """Return the health of the stream at ``now_ns``."""
        age = self.age_s(now_ns)
        rate = self.measured_rate_hz()
        values = {
            "rate_hz": f"{rate:.2f}",
            "expected_rate_hz": f"{self.rate_hz:.2f}",
            "age_ms": "" if age is None else f"{1e3 * age:.1f}",
            "latency_ms_max": f"{1e3 * max(self._ages):.1f}" if self._ages else "",
            "received": str(self.received_count),
            "missing": str(self.gaps),
            "backwards": str(self.backwards),
        }
        if age is None:
            return Health(self.name, "error", "no messages yet", values)
        if age > self.max_age_s:
            return Health(
                self.name,
                "stale",
                f"last message is {age:.2f} s old; the limit is {self.max_age_s} s",
                values,
            )
        if len(self._stamps) > 5 and rate < 0.8 * self.rate_hz:
            return Health(self.name, "warn", f"{rate:.1f} Hz; expected {self.rate_hz:.1f} Hz", values)
        return Health(self.name, "ok", f"{rate:.1f} Hz", values)


class LatencyHealth:
    """Compares durations, seconds, with a limit: mean, percentiles and maximum over a window."""

    def __init__(self, name: str, limit_s: float, window: int = 200) -> None:
        self.name, self.limit_s = name, limit_s
        self._values: deque[float] = deque(maxlen=window)

    def add(self, seconds: float) -> None:
        """Note one duration."""
        self._values.append(seconds)

    def health(self) -> Health:
        """Return the health from the durations in the window."""
        if not self._values:
            return Health(self.name, "ok", "no measurements yet", {})
        ordered = sorted(self._values)
        p95 = _percentile(ordered, 95)
        values = {
            "mean_ms": f"{1e3 * sum(ordered) / len(ordered):.2f}",
            "p50_ms": f"{1e3 * _percentile(ordered, 50):.2f}",
            "p95_ms": f"{1e3 * p95:.2f}",
            "p99_ms": f"{1e3 * _percentile(ordered, 99):.2f}",
            "max_ms": f"{1e3 * ordered[-1]:.2f}",
        }
        level: Level = "warn" if p95 > self.limit_s else "ok"
        return Health(self.name, level, f"p95 {1e3 * p95:.1f} ms; limit {1e3 * self.limit_s:.0f} ms", values)


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """Return the given percentile of ``ordered``."""
    return ordered[min(len(ordered) - 1, percent * len(ordered) // 100)]


class ReasonCounter:
    """Counts refusals by reason, and keeps the text of the newest one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts: Counter[str] = Counter()
        self.newest = ""
        self._at_last_report = 0

    def add(self, reason: str, detail: str = "") -> None:
        """Note one refusal."""
        self.counts[reason] += 1
        self.newest = f"{reason}: {detail}" if detail else reason

    def health(self) -> Health:
        """Return the counts; a warning if there are new ones since the last call."""
        total = sum(self.counts.values())
        fresh, self._at_last_report = total - self._at_last_report, total
        values = {reason: str(count) for reason, count in sorted(self.counts.items())}
        if fresh:
            return Health(self.name, "warn", f"{fresh} new; {self.newest}", values)
        return Health(self.name, "ok", f"{total} in total", values)
