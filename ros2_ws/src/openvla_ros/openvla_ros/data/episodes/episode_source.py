"""A dataset on disk in any format: a sequence of episodes, opened on access."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from openvla_ros.values.arrays import Float, Int
from openvla_ros.values.episode import Episode
from openvla_ros.values.time import NS_PER_S

_FIRST_NS = NS_PER_S  # datasets without time begin at 1 s: a stamp of 0 means "not set" in ROS


def stamps_from_seconds(seconds: Float) -> Int:
    """Return stamps (T,), nanoseconds, for steps at ``seconds`` (T,) from the start, for undated datasets."""
    stamps: Int = _FIRST_NS + np.rint(seconds * NS_PER_S).astype(np.int64)
    return stamps


class EpisodeSource(Protocol):
    """A dataset; reading one damaged episode raises ``DatasetError`` and leaves the others readable."""

    @property
    def path(self) -> Path:
        """The folder or file that was opened."""
        ...

    @property
    def format(self) -> str:
        """One of ``openvla_ros.data.datasets.open_dataset.FORMATS``."""
        ...

    def __len__(self) -> int:
        """Return how many episodes there are, damaged ones included."""
        ...

    def __getitem__(self, index: int) -> Episode:
        """Return episode ``index``, images undecoded; raises ``IndexError`` past the end.

        However it is damaged, raises only ``DatasetError`` or ``InvalidValueError``.
        """
        ...


class WrappedSource:
    """Another source's dataset; a subclass changes its episodes (``__getitem__``)."""

    def __init__(self, source: EpisodeSource) -> None:
        self.source = source

    @property
    def path(self) -> Path:
        """The folder or file that was opened."""
        return self.source.path

    @property
    def format(self) -> str:
        """One of ``openvla_ros.data.datasets.open_dataset.FORMATS``."""
        return self.source.format

    def __len__(self) -> int:
        return len(self.source)
