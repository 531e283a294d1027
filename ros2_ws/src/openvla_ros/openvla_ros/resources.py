"""Where the package's shared files lie: profiles, robot descriptions, launch files.

A checkout and an editable install read them from the source tree; an installed package from
``share/openvla_ros`` of its prefix, as colcon and pip both lay it out.
"""

from __future__ import annotations

import sys
from pathlib import Path

from openvla_ros.errors import OpenVLARosError

PACKAGE = "openvla_ros"


def share_path() -> Path:
    """Return the folder that holds ``config``, ``launch`` and ``urdf``."""
    package = Path(__file__).resolve().parent
    source = package.parent
    # .../<prefix>/lib/pythonX.Y/site-packages/openvla_ros under colcon and pip alike
    candidates = [source, *(p / "share" / PACKAGE for p in (*package.parents[3:6], Path(sys.prefix)))]
    for candidate in candidates:
        if (candidate / "config" / "robots").is_dir():
            return candidate
    raise OpenVLARosError(
        f"the shared files of {PACKAGE} were not found; looked in " + ", ".join(map(str, candidates))
    )
