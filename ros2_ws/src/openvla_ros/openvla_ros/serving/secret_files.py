"""Files that only their owner may read."""

from __future__ import annotations

import os
from pathlib import Path


def write_secret(path: Path, data: bytes) -> None:
    """Write a new file with mode 0600; raises ``FileExistsError`` if there is one."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def is_open_to_others(path: Path) -> bool:
    """Return whether other users may read or write ``path``."""
    return bool(path.stat().st_mode & 0o077)
