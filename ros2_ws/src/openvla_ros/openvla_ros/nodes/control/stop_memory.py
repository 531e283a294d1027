"""An emergency stop survives the controller's process: a restarted controller starts stopped.

What is remembered belongs to the process that starts the controller (``openvla up``, ``ros2 launch``, a
shell) and ends with it, or when the controller is stopped in the ordinary way. A controller that was killed
or has crashed leaves the file behind, and the one that takes its place reads it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

FOLDER = "openvla_ros"
SHARED_MEMORY = Path("/dev/shm")  # of Linux


class StopMemory:
    """Remembers whether controller ``name`` was stopped, across its restarts by one parent process."""

    def __init__(self, name: str, folder: Path | None = None) -> None:
        """``name`` is the node's full name with the domain's number."""
        key = hashlib.sha256(f"{name} {_parent()}".encode()).hexdigest()[:16]
        self._path = (folder or _folder()) / f"e_stop_{key}"

    def remembered(self) -> str | None:
        """Return by whom the stop was, or None if there was none."""
        return self._path.read_text(encoding="utf-8") if self._path.exists() else None

    def remember(self, source: str) -> None:
        """Note that ``source`` has stopped the arm."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.write_text(source, encoding="utf-8")

    def forget(self) -> None:
        """Note that the stop is over."""
        self._path.unlink(missing_ok=True)


def _folder() -> Path:
    """Return a folder of this user's that a restart of the machine empties.

    In memory wherever there is such a place: a stop must never wait for a disk.
    """
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}"))
    if os.access(runtime, os.W_OK):
        return runtime / FOLDER
    in_memory = os.access(SHARED_MEMORY, os.W_OK)
    return (SHARED_MEMORY if in_memory else Path(tempfile.gettempdir())) / f"{FOLDER}-{os.getuid()}"


def _parent() -> str:
    """Return what identifies the parent process: its number and when it started."""
    parent = os.getppid()
    stat = Path(f"/proc/{parent}/stat")
    # Field 22 is the start time; the second field, the program's name in brackets, may contain spaces.
    started = stat.read_text(encoding="utf-8").rpartition(")")[2].split()[19] if stat.exists() else ""
    return f"{parent} {started}"
