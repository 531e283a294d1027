"""A dataset that says its own rate, read for a robot: the two must agree."""

from __future__ import annotations

from openvla_ros.data.episodes.episode_source import EpisodeSource, WrappedSource
from openvla_ros.errors import DatasetError
from openvla_ros.values.episode import Episode


class ProfileRateSource(WrappedSource):
    """Another source's episodes, refused if their actions are for another rate than the robot's profile."""

    def __init__(self, source: EpisodeSource, rate_hz: float) -> None:
        super().__init__(source)
        self._rate_hz = rate_hz

    def __getitem__(self, index: int) -> Episode:
        """Return episode ``index``; raises ``DatasetError`` naming both rates if they differ."""
        episode = self.source[index]
        if episode.rate_hz != self._rate_hz:
            raise DatasetError(f"episode {episode.id!r}: {rates_differ(episode.rate_hz, self._rate_hz)}")
        return episode


def rates_differ(recorded_hz: float, profile_hz: float) -> str:
    """Return what to say of a dataset at another rate than the profile's, and what converts it."""
    steps = recorded_hz / profile_hz
    remedy = (
        f"; openvla convert --rate {profile_hz:g} composes {steps:g} into one"
        if steps > 1.0 and steps == round(steps)
        else ""
    )
    return (
        f"recorded at {recorded_hz:g} Hz; the profile's actions are for {profile_hz:g} Hz, and a delta of "
        f"one is not one of the other{remedy}"
    )
