"""Statistics as LeRobot 0.6 stores them: of each episode in ``meta/episodes``, of all in ``stats.json``.

LeRobot's own tools make a new dataset's statistics from those of its episodes; without them it cannot be
trained on after an edit. Quantiles are exact here, those of LeRobot are read from a histogram.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_ros.preprocessing.quantile_sketch import QuantileSketch
from openvla_ros.preprocessing.statistics_accumulator import StatisticsAccumulator
from openvla_ros.values.arrays import Float

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_LEVELS = 256  # of a channel


def episode_statistics(values: Float) -> dict[str, list[float] | list[int]]:
    """Return the statistics of one column (T, D) over one episode."""
    found = {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        **{name: np.quantile(values, share, axis=0) for name, share in QUANTILES.items()},
    }
    return {**{name: value.tolist() for name, value in found.items()}, "count": [len(values)]}


class ColumnStatistics:
    """The statistics of one column over all episodes."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._moments = StatisticsAccumulator(width)
        self._quantiles = QuantileSketch(width)

    def add(self, values: Float) -> None:
        """Take in the column (T, D) of one episode."""
        self._moments.add(values)
        self._quantiles.add(values)

    def values(self) -> dict[str, list[float] | list[int]]:
        """Return the statistics of everything so far."""
        found = self._moments.statistics(np.ones(self.width, np.bool_))
        return {
            **{name: getattr(found, name).tolist() for name in ("min", "max", "mean", "std")},
            **{name: self._quantiles.quantile(share).values.tolist() for name, share in QUANTILES.items()},
            "count": [self._moments.count],
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
