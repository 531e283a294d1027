"""Which layout an HDF5 file has, by what it contains; layouts that are not supported are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import h5py

from openvla_ros.data.hdf.hdf5_images import opened
from openvla_ros.errors import DatasetError

Hdf5Layout = Literal["robomimic", "droid"]

SUFFIXES = (".hdf5", ".h5")
TRAJECTORY = "trajectory.h5"  # the file name of every DROID episode
_KNOWN = (
    "robomimic, robosuite and LIBERO (data/demo_<n>/actions), DROID (action/cartesian_velocity and "
    "observation/robot_state), and files written by this package"
)


def hdf5_layout(path: Path) -> Hdf5Layout:
    """Return the layout of the file at ``path``; raises ``DatasetError`` for any other, saying why."""
    with opened(path) as file:
        if isinstance(file.get("data"), h5py.Group):
            return "robomimic"
        if "action/cartesian_velocity" in file and "observation/robot_state" in file:
            return "droid"
        raise DatasetError(_refusal(file, path))


def _refusal(file: Any, path: Path) -> str:
    action = file.get("action")
    if isinstance(action, h5py.Dataset) and "observations/qpos" in file:
        return (
            f"{path}: ALOHA's layout (action {action.shape}, observations/qpos): its actions are absolute "
            "joint targets, often of two arms, and nothing in it says of which robot: not supported. Joint "
            "targets of one arm in a LeRobot dataset are, with a profile whose action_space says so"
        )
    if isinstance(action, h5py.Group):
        return (
            f"{path}: its actions are {', '.join(f'action/{name}' for name in sorted(action))}; of DROID's "
            "layout, action/cartesian_velocity and observation/robot_state are needed"
        )
    return f"{path}: unknown layout; it contains {', '.join(sorted(file)) or 'nothing'}. Supported: {_KNOWN}"


def hdf5_files(folder: Path) -> list[Path]:
    """Return the HDF5 files in ``folder``, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())


def trajectory_files(path: Path) -> list[Path]:
    """Return the DROID trajectories at ``path``: the file, that of its folder, or those up to three below."""
    if path.is_file():
        return [path]
    for depth in ("", "*/", "*/*/", "*/*/*/"):
        if found := sorted(path.glob(f"{depth}{TRAJECTORY}")):
            return found
    return []
