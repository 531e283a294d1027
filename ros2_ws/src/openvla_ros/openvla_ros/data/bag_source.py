"""Recorded episodes as a dataset."""

from __future__ import annotations

from pathlib import Path

from openvla_ros.data.bag_reader import ActionSource, BagReader, mcap_in
from openvla_ros.data.mcap_file import McapFile
from openvla_ros.data.recordings import RECORDING
from openvla_ros.data.source import reading
from openvla_ros.episode import Episode
from openvla_ros.errors import DatasetError


class BagSource:
    """One episode folder, or a folder of them, as a dataset (see ``data.source``).

    Unfinished episodes are not part of it: ``openvla recover`` finishes them.
    """

    format = "bag"

    def __init__(self, path: Path, actions: ActionSource = "commanded") -> None:
        self.path, self._actions = path, actions
        if path.is_file() or any(path.glob("*.mcap")):
            self.folders = [path]
        else:
            self.folders = sorted(f.parent for f in path.glob("*/metadata.yaml") if "." not in f.parent.name)
        if not self.folders:
            raise DatasetError(f"{path} holds no finished episode")

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int) -> Episode:
        """Return episode ``index``; raises ``DatasetError`` if it is damaged or holds no step."""
        folder = self.folders[index]
        with reading(folder):
            reader = BagReader(folder)
            if not reader.finished:
                raise DatasetError(
                    f"{folder} was cut off; rename it to {folder.stem}{RECORDING} and run openvla recover"
                )
            return reader.episode(self._actions)

    def verify(self, index: int) -> None:
        """Read all of episode ``index``; raises ``DatasetError`` if it was cut off or a checksum is wrong."""
        folder = self.folders[index]
        with reading(folder), McapFile(mcap_in(folder)) as file:
            file.verify()
