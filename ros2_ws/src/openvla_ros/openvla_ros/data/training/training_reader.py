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
    """Reads samples of one or more datasets, name → source.

    ``weights`` (name → weight, default 1) mix them as ``reading_order.Mixture`` says; ``cameras``
    (default: all) are the only ones that are decoded. ``horizon`` is how many actions a sample has.
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
        """The chance of each dataset at every position."""
        return dict(zip(self._names, map(float, self._order.shares), strict=True))

    def __getitem__(self, position: int) -> TrainingSample:
        """Return the sample at ``position`` of the endless shuffled order.

        Raises ``DatasetError`` if its image is damaged.
        """
        return self.at(self._order[position])

    def at(self, place: StepPlace) -> TrainingSample:
        """Return the sample of one step."""
        episode = self._episode(place)
        rows = np.minimum(np.arange(place.step, place.step + self._horizon), len(episode) - 1)
        with reading(f"{self._sources[place.dataset].path}: episode {episode.id!r}, step {place.step}"):
            observation = episode.observation(place.step)
        return TrainingSample(observation, read_only(episode.actions[rows]), self._names[place.dataset])

    def iterate(self, start: int = 0, stride: int = 1) -> Iterator[TrainingSample]:
        """Yield samples for ever; worker w of W takes ``start=w, stride=W``."""
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
