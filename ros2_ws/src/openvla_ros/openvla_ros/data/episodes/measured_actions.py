"""Another source's episodes with the arm's measured motion as their actions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from openvla_ros.data.episodes.episode_source import EpisodeSource
from openvla_ros.data.episodes.reached_commands import REACHED
from openvla_ros.values.episode import Episode


class MeasuredSource:
    """Differences of measured poses in place of the commanded actions."""

    def __init__(self, source: EpisodeSource) -> None:
        self._source = source

    @property
    def path(self) -> Path:
        """The folder or file that was opened."""
        return self._source.path

    @property
    def format(self) -> str:
        """The format that is read."""
        return self._source.format

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Episode:
        """Return episode ``index``; raises ``InvalidValueError`` without measured poses or known units."""
        episode = self._source[index].with_measured_actions()
        kept = {name: value for name, value in episode.provenance.items() if name != REACHED}
        return replace(episode, provenance={**kept, "actions": "measured"})
