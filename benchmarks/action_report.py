"""The result table of the action benchmarks: printed row by row as results arrive, then one JSON line."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import Any

# Milliseconds on one H100 SXM with openvla-7b, and the speed-up over the plain transformers loop.
GOALS_MS = {
    "steady": 35.0,
    "fast, 0 wrong": 8.0,
    "fast, 1 wrong": 12.5,
    "fast, 2 wrong": 17.0,
    "int4wo steady": 16.0,
}
GOAL_RATIO = 5.0
PEER = "transformers"
_PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass
class Row:
    """The result of one way to compute an action."""

    milliseconds: list[float] = field(default_factory=list)
    same: int = 0  # tokens equal to the plain decoder's
    tokens: int = 0
    limit_ms: float | None = None
    memory_gb: float | None = None  # peak memory
    error: str | None = None

    def percentile(self, share: float) -> float:
        """Return the latency percentile of the actions, milliseconds."""
        ordered = sorted(self.milliseconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def measured(self) -> bool:
        """Whether there are times and nothing failed."""
        return self.error is None and bool(self.milliseconds)

    def describe(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        if not self.measured:
            return {"error": self.error or "not measured"}
        found = {name: round(self.percentile(share), 3) for name, share in _PERCENTILES.items()}
        return found | {
            "repeats": len(self.milliseconds),
            "token_agreement": round(self.same / self.tokens, 4) if self.tokens else None,
            "limit_ms": None if self.limit_ms is None else round(self.limit_ms, 3),
            "memory_gb": None if self.memory_gb is None else round(self.memory_gb, 2),
        }


class Report:
    """Prints each result as soon as it arrives; keeps all of them for the JSON line."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.rows: dict[str, Row] = {}
        self.facts = facts
        self._once = threading.Lock()

    def line(self, text: str = "") -> None:
        """Print a line and flush."""
        print(text, flush=True)

    def title(self) -> None:
        """Print the column headings."""
        names = "".join(f"{name:>9}" for name in _PERCENTILES)
        more = f"{'x faster':>10}{'limit':>9}{'of it':>7}{'tokens':>8}{'GB':>7}{'times':>7}"
        self.line(f"\n{'ms an action':22}{names}{more}")

    def add(self, name: str, row: Row) -> None:
        """Print a row and keep it."""
        self.rows[name] = row
        if not row.measured:
            self.line(f"{name:22}failed: {row.error}")
            return
        half = row.percentile(0.5)
        times = "".join(f"{row.percentile(share):9.2f}" for share in _PERCENTILES.values())
        ratio = self._faster(name)
        faster = "" if ratio is None else f"{ratio:.2f}"
        limit, share = (
            ("", "") if row.limit_ms is None else (f"{row.limit_ms:.2f}", f"{row.limit_ms / half:.0%}")
        )
        tokens = f"{row.same / row.tokens:.0%}" if row.tokens else ""
        memory = "" if row.memory_gb is None else f"{row.memory_gb:.1f}"
        count = len(row.milliseconds)
        self.line(f"{name:22}{times}{faster:>10}{limit:>9}{share:>7}{tokens:>8}{memory:>7}{count:7}")

    def finish(self, ending: str) -> None:
        """Print the goals and the JSON line; only the first call prints."""
        if not self._once.acquire(blocking=False):
            return
        goals = self._goals()
        if goals:
            self.line(f"\ngoals on one H100 SXM; this device: {self.facts['device']}")
            for name, goal in goals.items():
                met = "met" if goal["met"] else "not met"
                self.line(f"  {name:28}{goal['is']:9.2f}  goal {goal['goal']:g}: {met}")
        rows = {name: row.describe() for name, row in list(self.rows.items())}
        self.line(json.dumps(self.facts | {"ending": ending, "goals": goals, "rows": rows}))

    def _faster(self, name: str) -> float | None:
        peer, row = self.rows.get(PEER), self.rows[name]
        return peer.percentile(0.5) / row.percentile(0.5) if peer is not None and peer.measured else None

    def _goals(self) -> dict[str, dict[str, Any]]:
        """Return whether each goal was met; only openvla-7b has goals."""
        if self.facts["size"] != "7b":
            return {}
        found: dict[str, dict[str, Any]] = {}
        for name, goal in GOALS_MS.items():
            if name in self.rows and self.rows[name].measured:
                half = self.rows[name].percentile(0.5)
                found[f"{name}, ms"] = {"is": half, "goal": goal, "met": half <= goal}
        for name in ("steady", "fast, 1 wrong"):
            ratio = self._faster(name) if name in self.rows and self.rows[name].measured else None
            if ratio is not None:
                found[f"{PEER} / {name}"] = {"is": ratio, "goal": GOAL_RATIO, "met": ratio >= GOAL_RATIO}
        return found
