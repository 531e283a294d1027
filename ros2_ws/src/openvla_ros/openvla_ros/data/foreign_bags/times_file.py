"""A file of times: one episode a row, ``start,end[,instruction]``.

``start,end`` are seconds from the recording's first message; ``start_ns,end_ns`` are nanoseconds of the
recording's own clock. The first row says which.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from openvla_ros.errors import DatasetError
from openvla_ros.integrity.text_file import read_text
from openvla_ros.values.time import NS_PER_S

_COLUMNS = (("start", "end"), ("start_ns", "end_ns"))


@dataclass(frozen=True)
class TimesRow:
    """One row: a stretch of the recording, and its words if it has any."""

    line: int
    start_ns: int
    end_ns: int
    words: str


def read_times(path: Path, first_ns: int, last_ns: int) -> list[TimesRow]:
    """Return the rows of ``path`` in order; ``first_ns`` .. ``last_ns`` is what was recorded.

    Raises ``DatasetError`` naming the line that is no pair of times, lies outside the recording, or
    overlaps another.
    """
    if not path.is_file():
        raise DatasetError(f"{path} does not exist")
    lines = list(csv.reader(read_text(path, DatasetError).splitlines(), skipinitialspace=True))
    if not lines:
        raise DatasetError(f"{path} is empty; its first row is start,end or start,end,instruction")
    header = tuple(name.strip().lower() for name in lines[0])
    if header[:2] not in _COLUMNS or header[2:] not in ((), ("instruction",)):
        raise DatasetError(
            f"{path}: the first row is {','.join(lines[0])!r}; it must be start,end or start_ns,end_ns, and "
            "optionally instruction"
        )
    relative = header[0] == "start"
    rows = []
    for number, cells in enumerate(lines[1:], 2):
        if cells:
            rows.append(_row(path, number, cells, len(header), first_ns if relative else None))
    _check(path, rows, first_ns, last_ns)
    return sorted(rows, key=lambda row: row.start_ns)


def _row(path: Path, number: int, cells: list[str], columns: int, origin_ns: int | None) -> TimesRow:
    if len(cells) not in (2, columns):
        raise DatasetError(f"{path}:{number}: {len(cells)} cells; the first row names {columns}")
    start, end = (_time(path, number, cell, origin_ns) for cell in cells[:2])
    if end <= start:
        raise DatasetError(f"{path}:{number}: the end {cells[1]} is not after the start {cells[0]}")
    return TimesRow(number, start, end, cells[2].strip() if len(cells) > 2 else "")


def _time(path: Path, number: int, cell: str, origin_ns: int | None) -> int:
    try:
        if origin_ns is None:
            return int(cell)
        seconds = float(cell)
    except ValueError as error:
        unit = "nanoseconds" if origin_ns is None else "seconds"
        raise DatasetError(f"{path}:{number}: {cell!r} is not a number of {unit}") from error
    if not math.isfinite(seconds):
        raise DatasetError(f"{path}:{number}: {cell!r} is not a time")
    return origin_ns + round(seconds * NS_PER_S)


def _check(path: Path, rows: list[TimesRow], first_ns: int, last_ns: int) -> None:
    if not rows:
        raise DatasetError(f"{path} lists no episodes")
    for row in rows:
        if row.start_ns < first_ns or row.end_ns > last_ns:
            begin, end = ((t - first_ns) / NS_PER_S for t in (row.start_ns, row.end_ns))
            raise DatasetError(
                f"{path}:{row.line}: {begin:.3f} s .. {end:.3f} s is not within the recording, 0 .. "
                f"{(last_ns - first_ns) / NS_PER_S:.3f} s ({first_ns} .. {last_ns} ns)"
            )
    ordered = sorted(rows, key=lambda row: row.start_ns)
    for before, after in pairwise(ordered):
        if after.start_ns < before.end_ns:
            raise DatasetError(f"{path}: lines {before.line} and {after.line} overlap")
