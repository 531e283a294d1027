"""Statistics computed from episodes: one pass, bounded memory, mergeable over shards.

Mean and deviation are combined by Chan, Golub and LeVeque's update; quantiles come from
``quantile_sketch`` and are exact for millions of frames; beyond that, their error is bounded. Knows nothing
of where episodes are stored.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from openvla_ros.errors import InvalidValueError, StatisticsError
from openvla_ros.preprocessing.dataset_statistics import DatasetStatistics, FieldStatistics
from openvla_ros.preprocessing.quantile_sketch import LEVEL_ROWS, TAIL_ROWS, Quantile, QuantileSketch
from openvla_ros.values.arrays import Float, float_array


class StatisticsAccumulator:
    """The distribution of each dimension of a stream of frames (N, D)."""

    def __init__(self, width: int, tail: int = TAIL_ROWS, level: int = LEVEL_ROWS) -> None:
        self._quantiles = QuantileSketch(width, tail, level)
        self._mean: Float = np.zeros(width)
        self._squares: Float = np.zeros(width)  # sum of squared deviations from the mean
        self._min: Float = np.full(width, np.inf)
        self._max: Float = np.full(width, -np.inf)

    @property
    def width(self) -> int:
        """Number of dimensions of a frame."""
        return len(self._mean)

    @property
    def count(self) -> int:
        """Number of frames so far."""
        return self._quantiles.count

    def add(self, frames: ArrayLike) -> None:
        """Add frames (N, D); raises ``StatisticsError`` for a wrong width or a non-finite value."""
        try:
            rows = float_array("frames", frames, (None, self.width))
        except InvalidValueError as error:
            raise StatisticsError(str(error)) from error
        if not len(rows):
            return
        mean = rows.mean(axis=0)
        self._combine(len(rows), mean, np.square(rows - mean).sum(axis=0))
        self._min, self._max = (
            np.minimum(self._min, rows.min(axis=0)),
            np.maximum(self._max, rows.max(axis=0)),
        )
        self._quantiles.add(rows)

    def merge(self, other: StatisticsAccumulator) -> None:
        """Merge ``other``, as if its frames had been added here; ``other`` does not change."""
        if other.width != self.width:
            raise StatisticsError(f"cannot merge statistics of {self.width} and {other.width} dimensions")
        if not other.count:
            return
        self._combine(other.count, other._mean, other._squares)
        self._min, self._max = np.minimum(self._min, other._min), np.maximum(self._max, other._max)
        self._quantiles.merge(other._quantiles)

    def quantile(self, share: float) -> Quantile:
        """Return the quantile at ``share`` (0 .. 1); raises ``StatisticsError`` if there are no frames."""
        if not self.count:
            raise StatisticsError("no frames: statistics need at least one")
        return self._quantiles.quantile(share)

    def statistics(self, mask: ArrayLike) -> FieldStatistics:
        """Return the statistics so far; ``mask`` (D,) says which dimensions are normalised.

        Raises ``StatisticsError`` if there are no frames.
        """
        q01, q99 = self.quantile(0.01), self.quantile(0.99)
        return FieldStatistics(
            mean=self._mean,
            std=np.sqrt(self._squares / self.count),
            min=self._min,
            max=self._max,
            q01=q01.values,
            q99=q99.values,
            mask=np.asarray(mask),
            quantile_rank_error=max(q01.rank_error, q99.rank_error),
        )

    def _combine(self, count: int, mean: Float, squares: Float) -> None:
        total = self.count + count
        delta = mean - self._mean
        self._mean = self._mean + delta * (count / total)
        self._squares = self._squares + squares + np.square(delta) * (self.count * count / total)


class DatasetAccumulator:
    """The statistics of one dataset, episode by episode."""

    def __init__(self, action_width: int, proprio_width: int | None = None) -> None:
        self.action = StatisticsAccumulator(action_width)
        self.proprio = None if proprio_width is None else StatisticsAccumulator(proprio_width)
        self.num_trajectories = 0

    def add_episode(self, actions: ArrayLike, proprio: ArrayLike | None = None) -> None:
        """Add the actions (T, D) and the proprioceptive states (T, P) of one episode."""
        if (proprio is None) != (self.proprio is None):
            raise StatisticsError("either all episodes have proprioceptive states, or none")
        self.action.add(actions)
        if self.proprio is not None and proprio is not None:
            self.proprio.add(proprio)
        self.num_trajectories += 1

    def merge(self, other: DatasetAccumulator) -> None:
        """Merge the statistics of another shard."""
        if (other.proprio is None) != (self.proprio is None):
            raise StatisticsError("cannot merge shards with and without proprioceptive states")
        self.action.merge(other.action)
        if self.proprio is not None and other.proprio is not None:
            self.proprio.merge(other.proprio)
        self.num_trajectories += other.num_trajectories

    def statistics(self, mask: ArrayLike) -> DatasetStatistics:
        """Return the statistics so far; ``mask`` (D,) says which action dimensions are normalised."""
        proprio = (
            None if self.proprio is None else self.proprio.statistics(np.ones(self.proprio.width, np.bool_))
        )
        return DatasetStatistics(
            self.action.statistics(mask), proprio, self.action.count, self.num_trajectories
        )
