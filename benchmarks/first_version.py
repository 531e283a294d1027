"""Version 0.1.0 of the package, unpacked from the repository's history to compare with the present one."""

from __future__ import annotations

import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

COMMIT = "e4e3326"  # 0.1.0
PACKAGE = "ros2_ws/src/openvla_ros"
ROOT = Path(__file__).resolve().parent.parent


class NoHistoryError(RuntimeError):
    """The commit is not in the clone's history."""


def unpack(folder: Path) -> Path:
    """Unpack the sources of 0.1.0 under ``folder``; return the folder to put on ``PYTHONPATH``.

    Raises ``NoHistoryError`` in a clone without history.
    """
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", COMMIT, PACKAGE]
    try:
        done = subprocess.run(command, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"").decode(errors="replace").strip() or str(error)
        raise NoHistoryError(
            f"version 0.1.0 (commit {COMMIT}) is not in this clone's history ({said}); "
            "git fetch --unshallow brings it"
        ) from error
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder / PACKAGE
