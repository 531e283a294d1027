"""Recorded episodes as a dataset."""

from __future__ import annotations

from pathlib import Path

from openvla_ros.data.bags.bag_folder import bag_folders
from openvla_ros.data.bags.bag_reader import ActionSource, BagReader
from openvla_ros.data.bags.recording_folder import RECORDING
from openvla_ros.errors import DatasetError
from openvla_ros.integrity.damage import reading
from openvla_ros.values.episode import Episode


class BagSource:
    """One episode folder, or a folder of them, as a dataset (see ``data.source``).

    Unfinished episodes are not part of it: ``openvla recover`` finishes them.
    """

    format = "bag"

    def __init__(self, path: Path, actions: ActionSource = "commanded") -> None:
        self.path, self._actions = path, actions
        self.folders = bag_folders(path)
        if not self.folders:
            raise DatasetError(f"{path} contains no finished episode")

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int) -> Episode:
        """Return episode ``index``; raises ``DatasetError`` if it is damaged or has no steps."""
        folder = self.folders[index]
        with reading(folder):
            reader = BagReader(folder)
            if not reader.finished:
                raise DatasetError(
                    f"{folder} is truncated; rename it to {folder.stem}{RECORDING} and run openvla recover"
                )
            return reader.episode(self._actions)
