"""Turns whatever libraries raise on a full disk into one of our errors, with the path and the space left.

Python's own files raise ``OSError``. safetensors, HDF5 and Arrow put the system's error number into the text
of an exception of their own, or raise the real one only while they handle another.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openvla_ros.errors import DatasetError, OpenVLARosError

# What only a writer can meet: a full disk, quota or file size, and a file system for reading only.
_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_STATED = re.compile(r"(?:os error|errno)\W{1,3}(\d+)", re.IGNORECASE)


@contextmanager
def writing(path: Path, error_type: type[OpenVLARosError] = DatasetError) -> Iterator[None]:
    """Turn the exception of any library that could not write to the disk into one line.

    An error of the system about ``path`` itself, a folder above or a file below it counts too.

    Args:
        path: What is written: a file or a folder.
        error_type: What is raised. Its message has the path, the reason and the space that is left.
            Exceptions with another cause pass unchanged.
    """
    try:
        yield
    except OpenVLARosError:
        raise
    except Exception as error:  # each library has its own
        number = _reason(error) or _of(path, error)
        if number is None:
            raise
        room = f" ({free_space(path)})" if number in _WRITING else ""
        raise error_type(f"cannot write {path}: {os.strerror(number)}{room}") from error


def free_space(path: Path) -> str:
    """Return how much room the file system of ``path`` has, for a message: ``1.5 of 24.0 MB are free``."""
    folder = next(place for place in (path, *path.absolute().parents) if place.is_dir())
    usage = shutil.disk_usage(folder)
    return f"{usage.free / 1e6:.1f} of {usage.total / 1e6:.1f} MB are free in {folder}"


def _of(path: Path, error: BaseException) -> int | None:
    """Return the system's number of an error that names ``path``, a folder above or a file below it."""
    if not isinstance(error, OSError) or error.errno is None or not isinstance(error.filename, str):
        return None
    mine, named = path.absolute(), Path(error.filename).absolute()
    unfinished = named.parent == mine.parent and named.name.startswith(f"{mine.name}.")
    return error.errno if unfinished or named.is_relative_to(mine) or mine.is_relative_to(named) else None


def _reason(error: BaseException | None) -> int | None:
    """Return the system's number for why a disk cannot be written, from ``error`` or what led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        stated = [int(number) for number in _STATED.findall(str(error))]
        for number in (getattr(error, "errno", None), *stated):
            if number in _WRITING:
                return int(number)
        error = error.__cause__ or error.__context__
    return None
