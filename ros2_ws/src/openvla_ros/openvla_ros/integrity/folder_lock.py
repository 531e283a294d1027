"""One process at a time writes into a folder; the lock ends with the process, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openvla_ros.errors import OpenVLARosError

LOCK = ".lock"


@contextmanager
def locked(folder: Path, error_type: type[OpenVLARosError], taken: str) -> Iterator[None]:
    """Lock ``folder``, which exists, for this process.

    Raises ``error_type``: with the text ``taken`` if another process has the lock.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise error_type(f"cannot write into {folder}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise error_type(taken) from error
    try:
        yield
    finally:
        os.close(descriptor)
