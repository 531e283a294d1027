"""Rows of one episode in a parquet file: numbers as arrays, images as they are stored."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from openvla_ros.data.episodes.encoded_images import decode_image
from openvla_ros.data.lerobot.dataset_info import EpisodeEntry
from openvla_ros.errors import DatasetError
from openvla_ros.integrity.checksums import verify
from openvla_ros.integrity.damage import reading
from openvla_ros.values.arrays import Image


def read_rows(entry: EpisodeEntry, columns: list[str]) -> pa.Table:
    """Return the episode's rows of ``columns``; raises ``DatasetError`` naming what is missing."""
    verify(entry.data)
    with reading(entry.data):
        there = set(pq.read_schema(entry.data).names)
        if missing := [name for name in ("episode_index", *columns) if name not in there]:
            raise DatasetError(f"{entry.data}: has no column {', '.join(missing)}; meta/info.json names them")
        rows = pq.read_table(
            entry.data,
            columns=columns,
            filters=[("episode_index", "=", entry.index)],
            page_checksum_verification=True,
        )
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
        return np.asarray(column.flatten()).reshape(len(column), -1)
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
