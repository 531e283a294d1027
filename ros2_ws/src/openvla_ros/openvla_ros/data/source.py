"""A dataset on disk, whatever its format: a row of episodes that are opened when asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from openvla_ros.arrays import Float, Int
from openvla_ros.episode import Episode
from openvla_ros.errors import DatasetError, InvalidValueError, MissingDependencyError, OpenVLARosError

_FIRST_NS = 1_000_000_000  # datasets without time begin at 1 s: a stamp of 0 means "not set" in ROS


def stamps_from_seconds(seconds: Float) -> Int:
    """Return stamps (T,) for steps at ``seconds`` (T,) from the beginning, where a dataset has no date."""
    stamps: Int = _FIRST_NS + np.rint(seconds * 1e9).astype(np.int64)
    return stamps


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
        """Return episode ``index``, images undecoded; raises ``IndexError`` past the end.

        Raises ``DatasetError`` or ``InvalidValueError``, and nothing else, however it is damaged.
        """
        ...


@runtime_checkable
class Checksummed(Protocol):
    """A dataset whose checksums reading does not look at, because that would mean reading everything."""

    def verify(self, index: int) -> None:
        """Read all of episode ``index``; raises ``DatasetError`` if it was cut off or a checksum is wrong."""
        ...


@contextmanager
def reading(origin: object) -> Iterator[None]:
    """Turn whatever damaged data makes a library raise into a ``DatasetError`` that names ``origin``."""
    try:
        yield
    except (DatasetError, InvalidValueError, MissingDependencyError):
        raise
    except OpenVLARosError as error:
        raise DatasetError(str(error)) from error
    except Exception as error:  # on damaged bytes a library raises anything
        raise DatasetError(f"{origin}: cannot be read: {type(error).__name__}: {error}") from error
