"""Another source's episodes with the arm's measured motion as their actions."""

from __future__ import annotations

from dataclasses import replace

from openvla_ros.data.episodes.episode_source import WrappedSource
from openvla_ros.data.episodes.followed_commands import REACHED
from openvla_ros.values.episode import Episode


class MeasuredSource(WrappedSource):
    """Differences of measured poses in place of the commanded actions."""

    def __getitem__(self, index: int) -> Episode:
        """Return episode ``index``; raises ``InvalidValueError`` without measured poses or known units."""
        episode = self.source[index].with_measured_actions()
        kept = {name: value for name, value in episode.provenance.items() if name != REACHED}
        return replace(episode, provenance={**kept, "actions": "measured"})
