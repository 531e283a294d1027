"""Rows of one episode in a parquet file: numbers as arrays, images as they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from openvla_ros.data.episodes.encoded_images import decode_image
from openvla_ros.data.lerobot.dataset_info import EpisodeEntry
from openvla_ros.errors import DatasetError
from openvla_ros.integrity.checksums import verify
from openvla_ros.integrity.damage import reading
from openvla_ros.values.arrays import Image

EPISODE = "episode_index"
_FOOTERS = 32  # files


@dataclass(frozen=True, eq=False)
class _Footer:
    """What the end of a parquet file says; kept, because reading it may take longer than reading the rows."""

    metadata: pq.FileMetaData
    names: frozenset[str]
    episodes: tuple[tuple[int, int] | None, ...]  # of each row group: the lowest and highest, if it says so

    @classmethod
    def read(cls, path: Path) -> _Footer:
        """Read it; raises what pyarrow raises."""
        metadata = pq.read_metadata(path)
        names = frozenset(metadata.schema.to_arrow_schema().names)
        columns = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
        if EPISODE not in columns:
            return cls(metadata, names, ())
        place = columns.index(EPISODE)
        ranges: list[tuple[int, int] | None] = []
        for group in range(metadata.num_row_groups):
            found = metadata.row_group(group).column(place).statistics
            ranges.append((found.min, found.max) if found is not None and found.has_min_max else None)
        return cls(metadata, names, tuple(ranges))

    def groups(self, episode: int) -> list[int]:
        """Return the row groups that may have rows of ``episode``."""
        return [
            group for group, span in enumerate(self.episodes) if span is None or span[0] <= episode <= span[1]
        ]


@lru_cache(maxsize=_FOOTERS)
def _footer(path: Path, _: tuple[int, int, int]) -> _Footer:
    return _Footer.read(path)


def read_rows(entry: EpisodeEntry, columns: list[str]) -> pa.Table:
    """Return the episode's rows of ``columns``; raises ``DatasetError`` naming what is missing."""
    verify(entry.data)
    with reading(entry.data):
        stat = entry.data.stat()
        footer = _footer(entry.data, (stat.st_ino, stat.st_ctime_ns, stat.st_size))
        if missing := [name for name in (EPISODE, *columns) if name not in footer.names]:
            raise DatasetError(f"{entry.data}: has no column {', '.join(missing)}; meta/info.json names them")
        with pq.ParquetFile(entry.data, metadata=footer.metadata, page_checksum_verification=True) as file:
            rows = file.read_row_groups(footer.groups(entry.index), columns=[EPISODE, *columns])
        rows = rows.filter(pc.equal(rows.column(EPISODE), entry.index)).select(columns)
    if rows.num_rows != entry.length:
        raise DatasetError(
            f"{entry.data}: episode {entry.index} has {rows.num_rows} rows; the metadata say {entry.length}"
        )
    return rows


def matrix(rows: pa.Table, name: str) -> NDArray[Any]:
    """Return a column as (T,) or (T, D), fixed lists included."""
    column = rows.column(name).combine_chunks()
    if column.null_count:
        raise DatasetError(f"column {name}: {column.null_count} of {len(column)} rows are empty")
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        values = np.asarray(column.flatten())
        lengths = pc.list_value_length(column).unique()
        if len(lengths) > 1:
            raise DatasetError(
                f"column {name}: rows of {', '.join(map(str, lengths.to_pylist()))} numbers; all need as many"
            )
        return values.reshape(len(column), -1)
    return np.asarray(column)


class ParquetFrames:
    """Images in a parquet column, or in files that it names; read at the first access."""

    def __init__(self, root: Path, entry: EpisodeEntry, key: str) -> None:
        self._root, self._entry, self._key = root, entry, key

    @cached_property
    def _stored(self) -> list[Any]:
        rows: list[Any] = read_rows(self._entry, [self._key]).column(self._key).to_pylist()
        return rows

    def __len__(self) -> int:
        return self._entry.length

    def __getitem__(self, index: int) -> Image:
        index = range(len(self))[index]
        return decode_image(self.encoded(index), f"{self._entry.data} {self._key}[{index}]")

    def encoded(self, index: int) -> bytes:
        """Return image ``index`` as it is stored."""
        row = self._stored[index]
        data = row.get("bytes") if isinstance(row, dict) else row
        if isinstance(data, bytes) and data:
            return data
        path = row.get("path") if isinstance(row, dict) else row
        if not isinstance(path, str) or not path:
            raise DatasetError(f"{self._entry.data} {self._key}[{index}] holds neither an image nor a path")
        file = self._file(path)
        verify(file)
        with reading(file):
            return file.read_bytes()

    def _file(self, path: str) -> Path:
        """Return the file that ``path`` names inside the dataset; the dataset may have been moved since."""
        parts = PurePosixPath(path.replace("\\", "/")).parts
        if "images" in parts:
            parts = parts[parts.index("images") :]
        file = self._root.joinpath(*parts)
        if not file.resolve().is_relative_to(self._root.resolve()):
            raise DatasetError(
                f"{self._entry.data}: image {path} lies outside of the dataset; it is not read"
            )
        return file
