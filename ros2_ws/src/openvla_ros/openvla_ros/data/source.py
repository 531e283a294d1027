"""A dataset on disk, whatever its format: a row of episodes that are opened when asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from openvla_ros.episode import Episode


class EpisodeSource(Protocol):
    """A dataset; reading one damaged episode raises ``DatasetError`` and leaves the others readable."""

    @property
    def path(self) -> Path:
        """The folder or file that was opened."""
        ...

    @property
    def format(self) -> str:
        """One of ``openvla_ros.data.detect.FORMATS``."""
        ...

    def __len__(self) -> int:
        """Return how many episodes there are, damaged ones included."""
        ...

    def __getitem__(self, index: int) -> Episode:
        """Return episode ``index``, images undecoded; raises ``IndexError`` past the end."""
        ...
