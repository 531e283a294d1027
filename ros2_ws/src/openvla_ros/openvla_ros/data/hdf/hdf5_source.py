"""An HDF5 dataset of any supported layout, opened."""

from __future__ import annotations

import logging
from pathlib import Path

from openvla_ros.data.hdf.droid_trajectory import DroidSource
from openvla_ros.data.hdf.hdf5_layouts import hdf5_files, hdf5_layout, trajectory_files
from openvla_ros.data.hdf.robomimic_source import RobomimicSource
from openvla_ros.errors import DatasetError
from openvla_ros.values.episode import Episode

_LOG = logging.getLogger(__name__)


class Hdf5Source:
    """The episodes of one file: robomimic's demonstrations in the order of their numbers, or DROID's.

    ``path`` may be a folder with one file, or of DROID episodes. What is left out is logged once.
    """

    format = "hdf5"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._said: set[str] = set()
        file = chosen_file(path)
        layout = hdf5_layout(file)
        match layout:
            case "droid":
                self._source: DroidSource | RobomimicSource = DroidSource(path, self._say)
            case "robomimic":
                self._source = RobomimicSource(file, self._say)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Episode:
        """Return episode ``index`` with its images on disk."""
        return self._source[index]

    def _say(self, what: str) -> None:
        """Log ``what``, once for this dataset."""
        if what not in self._said:
            self._said.add(what)
            _LOG.warning("%s: %s", self.path, what)


def chosen_file(path: Path) -> Path:
    """Return ``path``, the only file in it, or the first of its DROID episodes.

    Raises ``DatasetError`` naming the files if there are several datasets, or their layout is not supported.
    """
    if path.is_file():
        return path
    files = hdf5_files(path) or trajectory_files(path)
    if not files:
        raise DatasetError(f"{path}: contains no HDF5 file")
    if len(files) > 1 and files[0].parent == path:
        hdf5_layout(files[0])
        raise DatasetError(
            f"{path} contains several datasets; choose one: {', '.join(f.name for f in files)}"
        )
    return files[0]
