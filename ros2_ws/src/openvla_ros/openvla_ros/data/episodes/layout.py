"""The layout that all episodes of one exported dataset must share.

Learning formats have one schema for a whole dataset. The layout comes from the first readable episode;
an episode that differs, or whose images cannot all be decoded, is refused with the reason before any of
it is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from openvla_ros.data.episodes.episode_columns import episode_columns
from openvla_ros.errors import DatasetError
from openvla_ros.values.action import ActionSpace
from openvla_ros.values.episode import Episode


@dataclass(frozen=True)
class Layout:
    """The schema of an exported dataset."""

    cameras: Mapping[str, tuple[int, int]]  # name → height, width in pixels
    columns: Mapping[str, int]  # column of ``episode_columns`` → numbers a step
    action_names: tuple[str, ...]
    rate_hz: float
    space: ActionSpace  # bounds of the first episode; the rest of it is everybody's

    @classmethod
    def of(cls, episode: Episode) -> Layout:
        """Return the layout that ``episode`` has; decodes one image of each camera."""
        shapes = {name: images[0].shape for name, images in episode.images.items()}
        columns = episode_columns(episode)
        return cls(
            cameras={name: (shape[0], shape[1]) for name, shape in shapes.items()},
            columns={name: array[0].size for name, array in columns.items()},
            action_names=episode.space.names,
            rate_hz=episode.rate_hz,
            space=episode.space,
        )

    def check(self, episode: Episode) -> None:
        """Raise ``DatasetError`` if ``episode`` differs, or ``InvalidValueError`` for a broken image."""
        other = Layout.of(episode)
        for name in ("cameras", "columns", "action_names", "rate_hz"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise DatasetError(
                    f"episode {episode.id!r}: {name} are {theirs}, but the dataset's are {mine}"
                )
        if lines := self.space.differences(other.space):
            raise DatasetError(
                f"episode {episode.id!r}: its actions are not those of the dataset (here: of the dataset, "
                "there: of the episode): " + "; ".join(lines)
            )
        for camera, images in episode.images.items():
            for index in range(len(images)):
                if images[index].shape[:2] != self.cameras[camera]:
                    raise DatasetError(
                        f"episode {episode.id!r}: image {index} of camera {camera!r} is "
                        f"{images[index].shape[:2]}, not {self.cameras[camera]}"
                    )
