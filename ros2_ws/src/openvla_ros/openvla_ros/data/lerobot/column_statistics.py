"""Statistics as LeRobot 0.6 stores them: of each episode in ``meta/episodes``, of all in ``stats.json``.

LeRobot's own tools make a new dataset's statistics from those of its episodes; without them it cannot be
trained on after an edit. Quantiles are exact here, those of LeRobot are read from a histogram.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_ros.preprocessing.statistics_accumulator import StatisticsAccumulator
from openvla_ros.values.arrays import Float

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
Numbers = dict[str, list[float] | list[int]]
_LEVELS = 256  # of a channel


class ColumnStatistics:
    """The statistics of the columns of a dataset, over each episode and over all.

    The columns are laid side by side, so that the cost does not grow with their number.
    """

    def __init__(self) -> None:
        self._columns: dict[str, slice] = {}
        self._all: StatisticsAccumulator | None = None

    def width(self, column: str) -> int:
        """Return how many numbers a row of ``column`` has."""
        place = self._columns[column]
        return int(place.stop - place.start)

    def add(self, columns: Mapping[str, Float]) -> dict[str, Numbers]:
        """Take in the columns (T, D) of one episode; return its statistics, by column.

        Every episode must have the same columns.
        """
        rows = np.concatenate(list(columns.values()), axis=1)
        if self._all is None:
            ends = np.cumsum([values.shape[1] for values in columns.values()])
            starts = [0, *ends[:-1]]
            self._columns = {name: slice(a, b) for name, a, b in zip(columns, starts, ends, strict=True)}
            self._all = StatisticsAccumulator(rows.shape[1])
        self._all.add(rows)
        quantiles = np.quantile(rows, list(QUANTILES.values()), axis=0)
        found = {
            "min": rows.min(axis=0),
            "max": rows.max(axis=0),
            "mean": rows.mean(axis=0),
            "std": rows.std(axis=0),
            **dict(zip(QUANTILES, quantiles, strict=True)),
        }
        return self._by_column(found, len(rows))

    def values(self) -> dict[str, Numbers]:
        """Return the statistics of everything so far, by column."""
        if self._all is None:
            return {}
        found = self._all.statistics(np.ones(self._all.width, np.bool_))
        moments = {name: getattr(found, name) for name in ("min", "max", "mean", "std")}
        quantiles = {name: self._all.quantile(share).values for name, share in QUANTILES.items()}
        return self._by_column(moments | quantiles, self._all.count)

    def _by_column(self, found: Mapping[str, Float], count: int) -> dict[str, Numbers]:
        return {
            column: {**{name: values[place].tolist() for name, values in found.items()}, "count": [count]}
            for column, place in self._columns.items()
        }


def image_histogram(images: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
    """Return how often each level of each channel occurs, 3 lists of 256, and the number of images."""
    counts = np.zeros((3, _LEVELS), np.int64)
    for image in images:
        for channel in range(3):
            counts[channel] += np.bincount(image[..., channel].reshape(-1), minlength=_LEVELS)
    return {"images": len(images), "counts": counts.tolist()}


def image_statistics(histograms: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the statistics of the joined histograms, levels in 0 .. 1, in LeRobot's shape (3, 1, 1)."""
    counts = np.sum([np.array(histogram["counts"]) for histogram in histograms], axis=0)
    levels = np.arange(_LEVELS) / (_LEVELS - 1)
    total = counts.sum(axis=1)
    mean = counts @ levels / total
    variance = counts @ np.square(levels) / total - np.square(mean)
    cumulative = np.cumsum(counts, axis=1)

    def level_at(rank: NDArray[np.int64]) -> Float:
        return np.array(
            [levels[np.searchsorted(c, r, side="right")] for c, r in zip(cumulative, rank, strict=True)]
        )

    found = {
        "min": level_at(np.zeros(3, np.int64)),
        "max": level_at(total - 1),
        "mean": mean,
        "std": np.sqrt(np.maximum(variance, 0.0)),
        **{
            name: level_at(np.rint(share * (total - 1)).astype(np.int64)) for name, share in QUANTILES.items()
        },
    }
    shaped = {name: value.reshape(3, 1, 1).tolist() for name, value in found.items()}
    return {**shaped, "count": [sum(histogram["images"] for histogram in histograms)]}
