"""HDF5 files opened safely, and the images inside them, read one at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from openvla_ros.integrity.checksums import SUMS, say_unverified, verify
from openvla_ros.integrity.damage import reading
from openvla_ros.values.arrays import Image, image_array


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open ``path`` for reading; whatever h5py raises on damage becomes a ``DatasetError``."""
    if path.is_file() and not verify(path):
        say_unverified(
            str(path), f"not listed in {SUMS}; only arrays with a fletcher32 filter have a checksum"
        )
    with reading(path), h5py.File(path, "r") as file:
        yield file


@lru_cache(maxsize=16)
def _shared(path: Path, modified_ns: int, process: int) -> Any:
    """Return ``path`` open for reading, cached: opening takes as long as reading several images.

    The other arguments are cache keys: a replaced file, or a forked process, opens it again.
    """
    return h5py.File(path, "r")


class Hdf5Frames:
    """Images of one camera inside an HDF5 file; ``bottom_up`` ones are stored with the lowest row first."""

    def __init__(self, path: Path, dataset: str, count: int, *, bottom_up: bool = False) -> None:
        self._path, self._dataset, self._count, self._bottom_up = path, dataset, count, bottom_up

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Image:
        place = range(self._count)[index]
        with reading(self._path):
            file = _shared(self._path, self._path.stat().st_mtime_ns, os.getpid())
            pixels = np.asarray(file[self._dataset][place])
            return image_array(self._dataset, pixels[::-1] if self._bottom_up else pixels)


def attribute_text(item: Any, name: str) -> str | None:
    """Return attribute ``name`` of a group as text, or None without one."""
    if name not in item.attrs:
        return None
    value = item.attrs[name]
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
