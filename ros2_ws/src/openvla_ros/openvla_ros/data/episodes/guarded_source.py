"""Error guard around every format: whatever a library raises on damaged bytes becomes a ``DatasetError``."""

from __future__ import annotations

from dataclasses import replace

from openvla_ros.data.episodes.encoded_images import encoded_frame
from openvla_ros.data.episodes.episode_source import WrappedSource
from openvla_ros.integrity.damage import reading
from openvla_ros.values.arrays import Image
from openvla_ros.values.episode import Episode, ImageSequence


class GuardedSource(WrappedSource):
    """A dataset whose episodes and images raise only ``DatasetError`` and ``InvalidValueError``."""

    def __getitem__(self, index: int) -> Episode:
        """Return episode ``index``, images undecoded; raises ``IndexError`` past the end."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: no episode {index}; there are {len(self)}")
        origin = f"{self.path}: episode {index}"
        with reading(origin):
            episode = self.source[index]
            images = {
                name: GuardedImages(images, f"{origin}: camera {name!r}")
                for name, images in episode.images.items()
            }
            return replace(episode, images=images)


class GuardedImages:
    """Images of one camera, decoded on access."""

    def __init__(self, images: ImageSequence, origin: str) -> None:
        self._images, self._origin = images, origin

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Image:
        index = range(len(self))[index]  # an IndexError past the end: what ends a loop over the images
        with reading(f"{self._origin}: image {index}"):
            return self._images[index]

    def encoded(self, index: int) -> bytes | None:
        """Return image ``index`` as its source stores it, or None if the source has raw pixels."""
        with reading(f"{self._origin}: image {index}"):
            return encoded_frame(self._images, index)
