"""Steps of datasets on disk as training samples, in any order, without copying them first.

A sample is the same ``Observation`` as in live code, and the actions that followed. Recently opened episodes
stay open. A damaged episode is skipped and listed in ``skipped``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from openvla_ros.data.episodes.episode_source import EpisodeSource
from openvla_ros.data.training.reading_order import Mixture, StepPlace
from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.integrity.damage import reading
from openvla_ros.values.arrays import Float, read_only
from openvla_ros.values.episode import Episode
from openvla_ros.values.observation import Observation

_OPEN_EPISODES = 128  # twice a window of the reading order


@dataclass(frozen=True, eq=False)
class TrainingSample:
    """An observation, and the actions from there on."""

    observation: Observation
    actions: Float  # (horizon, D); the last one repeats behind the end of the episode
    dataset: str


class TrainingReader:
    """Reads samples of one or more datasets in an endless shuffled order.

    Dataset i is drawn with probability w_i n_i / Σ_j w_j n_j, where w are the weights and n the steps. The
    sample at a position depends only on the seed and the position, so a resumed run reads on exactly.

    Attributes:
        steps: How many steps of each dataset are read, by name.
        skipped: Why an episode is left out, one line each: it is damaged, or has no instruction.
    """

    def __init__(
        self,
        sources: Mapping[str, EpisodeSource],
        *,
        weights: Mapping[str, float] | None = None,
        cameras: Sequence[str] | None = None,
        horizon: int = 1,
        seed: int = 0,
        window: int = 64,
    ) -> None:
        """Open every episode once, to count its steps.

        Args:
            sources: The datasets by name, such as ``{"carrot": open_dataset("recordings/carrot")}``.
            weights: Weight of each dataset by name; 1 for those that are not named.
            cameras: The cameras to decode; all by default.
            horizon: How many actions a sample has.
            seed: Of the order.
            window: How many episodes are shuffled together. More mixes better, and keeps more files open.

        Raises:
            InvalidValueError: A weight names no dataset, is negative, or all are 0; ``horizon`` is less than
                1; or there is nothing to learn from.
        """
        if unknown := sorted(set(weights or {}) - set(sources)):
            raise InvalidValueError(f"weights name {unknown}; the datasets are {sorted(sources)}")
        if horizon < 1:
            raise InvalidValueError(f"horizon is {horizon}; it must be at least 1")
        self._names, self._sources = list(sources), list(sources.values())
        self._cameras, self._horizon = cameras, horizon
        self._open: OrderedDict[tuple[int, int], Episode] = OrderedDict()
        self.skipped: list[str] = []
        lengths = [self._lengths(source) for source in self._sources]
        self.steps = {name: sum(counts) for name, counts in zip(self._names, lengths, strict=True)}
        chosen = [(weights or {}).get(name, 1.0) for name in self._names]
        self._order = Mixture(lengths, chosen, seed, window=window)

    def _lengths(self, source: EpisodeSource) -> list[int]:
        """Return the steps of each episode that can be learned from; 0 where there are none."""
        lengths = []
        for index in range(len(source)):
            try:
                episode = source[index]
            except (DatasetError, InvalidValueError) as error:
                self.skipped.append(str(error))
                lengths.append(0)
                continue
            if not episode.instruction.strip():
                self.skipped.append(f"{source.path}: episode {episode.id!r} has no instruction")
            lengths.append(len(episode) if episode.instruction.strip() else 0)
        return lengths

    @property
    def shares(self) -> dict[str, float]:
        """Probability of each dataset at every position, by name."""
        return dict(zip(self._names, map(float, self._order.shares), strict=True))

    def __getitem__(self, position: int) -> TrainingSample:
        """Return the sample at ``position`` (from 0) of the endless shuffled order.

        Raises:
            DatasetError: Its image is damaged.
        """
        return self.at(self._order[position])

    def at(self, place: StepPlace) -> TrainingSample:
        """Return the sample of one step.

        Args:
            place: Dataset, episode and step, each by its number.

        Raises:
            DatasetError: Its image is damaged.
        """
        episode = self._episode(place)
        rows = np.minimum(np.arange(place.step, place.step + self._horizon), len(episode) - 1)
        with reading(f"{self._sources[place.dataset].path}: episode {episode.id!r}, step {place.step}"):
            observation = episode.observation(place.step)
        return TrainingSample(observation, read_only(episode.actions[rows]), self._names[place.dataset])

    def iterate(self, start: int = 0, stride: int = 1) -> Iterator[TrainingSample]:
        """Yield samples for ever. Worker w of W takes ``start=w, stride=W``.

        Args:
            start: Position of the first sample; a resumed run passes how many it has read.
            stride: From one position to the next.

        Raises:
            DatasetError: The image of a sample is damaged.
        """
        position = start
        while True:
            yield self[position]
            position += stride

    def _episode(self, place: StepPlace) -> Episode:
        key = (place.dataset, place.episode)
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key]
        episode = self._chosen(self._sources[place.dataset][place.episode])
        self._open[key] = episode
        if len(self._open) > _OPEN_EPISODES:
            self._open.popitem(last=False)
        return episode

    def _chosen(self, episode: Episode) -> Episode:
        if self._cameras is None:
            return episode
        return episode.with_cameras(self._cameras)
