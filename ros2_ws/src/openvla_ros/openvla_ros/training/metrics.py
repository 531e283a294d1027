"""Metrics of a run: one JSON line per record, curves for people, and TensorBoard.

``metrics.jsonl`` is authoritative; it is truncated to the saved state when a run resumes, so no step occurs
in it twice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter

METRICS = "metrics.jsonl"
TRAINING, VALIDATION = "training", "validation"


class Records:
    """Writes the records of one run into its folder."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Resume at ``first_step``; later records of a run that was killed are dropped."""
        self._path = folder / METRICS
        kept = [record for record in read_records(folder) if record["step"] <= first_step]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        unfinished = self._path.with_name(METRICS + ".part")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(self._path)
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def add(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Record ``values`` after optimizer step ``step``, counted from 1; NaN means "none"."""
        clean = {name: _json(value) for name, value in values.items()}
        self._file.write(json.dumps({"kind": kind, "step": step, **clean}) + "\n")
        self._file.flush()
        for name, value in clean.items():
            if isinstance(value, (int, float)):
                self._board.add_scalar(f"{kind}/{name}", value, step)
            elif isinstance(value, list):
                for index, part in enumerate(value):
                    self._board.add_scalar(f"{kind}/{name}/{index}", part, step)

    def close(self) -> None:
        """Flush the buffers."""
        self._file.close()
        self._board.close()

    def __enter__(self) -> Records:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Return the records in ``folder``, oldest first, without a truncated last line."""
    path = folder / METRICS
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def _json(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (tuple, list)):
        return [_json(part) for part in value]
    return value
