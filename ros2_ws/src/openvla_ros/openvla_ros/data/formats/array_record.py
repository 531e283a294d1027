"""ArrayRecord files, the other format in which TensorFlow Datasets stores the same records.

Read with the package array_record, which checks the hash of what it reads and needs no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openvla_ros.dependencies import needed_for
from openvla_ros.errors import DatasetError


def count_array_records(path: Path) -> int:
    """Return how many records ``path`` holds; 0 too if its index, at the end, is damaged."""
    with _opened(path) as reader:
        return int(reader.num_records())


def read_array_record(path: Path, index: int) -> bytes:
    """Return record ``index``; raises ``DatasetError`` if it is damaged or there is none."""
    with _opened(path) as reader:
        return bytes(reader.read([index])[0])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with needed_for(f"{path}: the file format array_record"):
        from array_record.python.array_record_module import ArrayRecordReader
    try:
        reader = ArrayRecordReader(str(path))
        try:
            yield reader
        finally:
            reader.close()
    except (RuntimeError, ValueError) as error:  # what its C++ code raises
        raise DatasetError(f"{path}: damaged, or no array_record file: {error}") from error
