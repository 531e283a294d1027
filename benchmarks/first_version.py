"""Version 0.1.0 of the package, unpacked from the repository's history to compare with the present one."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml

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
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder / PACKAGE


# Prints a profile of 0.1.0 with every key that it knows.
_DUMP = "from openvla_ros.profile import *; import sys; sys.stdout.write(dump_profile(load_profile(%r)))"


def profile_for(sources: Path, values: dict[str, Any], robot: str = "sim_widowx") -> dict[str, Any]:
    """Return the profile ``values`` without the keys that 0.1.0 at ``sources`` does not know."""
    environment = {**os.environ, "PYTHONPATH": str(sources)}
    known = subprocess.check_output([sys.executable, "-c", _DUMP % robot], env=environment, text=True)
    return _known_part(values, yaml.safe_load(known))


def _known_part(values: Any, known: Any) -> Any:
    if isinstance(values, dict) and isinstance(known, dict):
        return {key: _known_part(value, known[key]) for key, value in values.items() if key in known}
    if isinstance(values, list) and isinstance(known, list) and known:
        return [_known_part(value, known[0]) for value in values]
    return values
