"""Where this checkout, its small test data and the shared reference data lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PACKAGE_SOURCE = TESTS.parent  # launch/, config/, urdf/
REPOSITORY = TESTS.parents[3]  # benchmarks/, tools/
DATA = TESTS / "data"
# The checkout's neighbour, or where OPENVLA_ROS_SHARED points.
SHARED = Path(os.environ.get("OPENVLA_ROS_SHARED", REPOSITORY / ".." / "shared"))


def shared_folder(name: str) -> Path:
    """Return ``../shared/data/<name>``, or skip the test with the reason."""
    folder = SHARED / "data" / name
    if not folder.is_dir():
        pytest.skip(f"needs the shared data folder {name!r}, which is not beside this checkout")
    return folder
