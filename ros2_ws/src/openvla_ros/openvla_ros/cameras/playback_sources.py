"""Recorded images played as a camera: a folder of images, an episode."""

from __future__ import annotations

import re
from pathlib import Path

from openvla_ros.cameras.protocol import Frame, Intrinsics
from openvla_ros.errors import DatasetError, DeviceError, InvalidValueError
from openvla_ros.preprocessing.image_encoding import decode_compressed
from openvla_ros.values.episode import Episode

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


class ImageFolderCamera:
    """The JPEG and PNG files of a folder, in the order of the numbers in their names."""

    intrinsics: Intrinsics | None = None

    def __init__(self, path: Path, rate_hz: float) -> None:
        self.path, self.playback_rate_hz = path, rate_hz
        self._files: list[Path] = []
        self._next = 0

    @property
    def description(self) -> str:
        """The folder."""
        return f"folder of images {self.path}"

    def open(self) -> None:
        """Go to the first image; raises ``DeviceError`` if there is none."""
        found = [p for p in self.path.glob("*") if p.suffix.lower() in IMAGE_SUFFIXES]
        if not found:
            raise DeviceError(f"{self.description}: contains no {', '.join(IMAGE_SUFFIXES)} files")
        self._files, self._next = sorted(found, key=_by_number), 0

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next image, None after the last; raises ``DeviceError`` on a damaged file."""
        if self._next >= len(self._files):
            return None
        path = self._files[self._next]
        self._next += 1
        try:
            return Frame(decode_compressed(path.suffix.lstrip("."), path.read_bytes()), None)
        except (InvalidValueError, OSError) as error:
            raise DeviceError(f"{path}: {error}") from error

    def close(self) -> None:
        """Forget the list of files."""
        self._files = []


class EpisodeCamera:
    """The images of one camera of an episode, at the episode's rate."""

    intrinsics: Intrinsics | None = None

    def __init__(self, episode: Episode, camera: str) -> None:
        if camera not in episode.images:
            raise DatasetError(
                f"episode {episode.id!r} has no camera {camera!r}; it has {', '.join(episode.images)}"
            )
        self._images, self._name = episode.images[camera], f"episode {episode.id!r}, camera {camera!r}"
        self.playback_rate_hz = episode.rate_hz
        self._next = len(self._images)

    @property
    def description(self) -> str:
        """The episode and the camera."""
        return self._name

    def open(self) -> None:
        """Go to the first image."""
        self._next = 0

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next image, None after the last."""
        if self._next >= len(self._images):
            return None
        frame = Frame(self._images[self._next], None)
        self._next += 1
        return frame

    def close(self) -> None:
        """Go to the end."""
        self._next = len(self._images)


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts image_2 before image_10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
