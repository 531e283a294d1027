"""Locates the package's shared files: profiles, robot descriptions, launch files, the small model.

A checkout and an editable install read them from the source tree; an installed package from
``share/openvla_ros`` of its prefix, as colcon and pip both lay it out.
"""

from __future__ import annotations

import sys
from pathlib import Path

from openvla_ros.errors import OpenVLARosError

PACKAGE = "openvla_ros"
SMALL_BASE = "small_base"  # the checkpoint that comes with the package; acts on sim_widowx


def share_path() -> Path:
    """Return the folder with ``config``, ``launch``, ``urdf`` and ``checkpoints``."""
    package = Path(__file__).resolve().parent
    source = package.parent
    # .../<prefix>/lib/pythonX.Y/site-packages/openvla_ros under colcon and pip alike
    candidates = [source, *(p / "share" / PACKAGE for p in (*package.parents[3:6], Path(sys.prefix)))]
    for candidate in candidates:
        if (candidate / "config" / "robots").is_dir():
            return candidate
    raise OpenVLARosError(
        f"cannot find the shared files of {PACKAGE}; searched " + ", ".join(map(str, candidates))
    )


def shipped_checkpoints() -> dict[str, Path]:
    """Return the package's own checkpoints: name → folder."""
    return {path.parent.name: path.parent for path in (share_path() / "checkpoints").glob("*/config.json")}
