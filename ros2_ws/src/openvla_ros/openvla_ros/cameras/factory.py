"""Creates the camera for a source's name.

Each source is imported only when it is chosen: a camera node that was killed must be back before the
policy's images go stale, and the dataset readers alone take a second to import.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from openvla_ros.cameras.protocol import Camera
from openvla_ros.cameras.reconnecting import ReconnectingCamera
from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import CameraProfile

SOURCES = ("usb", "realsense", "video", "images", "episode")


@dataclass(frozen=True)
class CameraOptions:
    """The options for starting a camera."""

    source: str  # one of SOURCES
    device: str = ""  # USB: device path or number; RealSense: serial number, empty for the only one
    path: str = ""  # recordings: a video file, a folder of images, a dataset
    pixel_format: str = ""  # USB: four-letter code such as MJPG, empty for the driver's own choice
    depth: bool = True  # RealSense: return depth too
    episode: int = 0  # which episode of the dataset
    episode_camera: str = ""  # which of its cameras, empty for the profile's name


def chosen_source(profile: CameraProfile, source: str, device: str, path: str) -> tuple[str, str, str]:
    """Return source, device and path: as given, else from the profile.

    ``source`` is ``profile`` or one of SOURCES.

    Raises ``InvalidValueError`` if the profile leaves the camera to its own driver and no source is
    given: the image would have two publishers.
    """
    origin = profile.origin
    if source not in ("profile", origin.kind):
        return source, device, path
    if origin.kind == "topic":
        raise InvalidValueError(
            f"camera {profile.name!r}: according to the profile, its own driver publishes {profile.topic}; "
            f"name a device in the profile's cameras.source, or set source:= to one of {', '.join(SOURCES)}"
        )
    return origin.kind, device or origin.device or origin.serial, path or origin.path


def load_camera(options: CameraOptions, profile: CameraProfile) -> Camera:
    """Return the camera for ``options``, not yet open; devices reconnect by themselves.

    Raises ``InvalidValueError`` for an unknown source, ``MissingDependencyError`` if its library is not
    installed, ``DatasetError`` for an episode that cannot be read.
    """
    match options.source:
        case "usb":
            from openvla_ros.cameras.usb import UsbCamera

            usb = UsbCamera(
                options.device or "0", profile.width, profile.height, profile.rate_hz, options.pixel_format
            )
            return ReconnectingCamera(usb)
        case "realsense":
            from openvla_ros.cameras.realsense import RealSenseCamera

            realsense = RealSenseCamera(
                options.device, profile.width, profile.height, profile.rate_hz, depth=options.depth
            )
            return ReconnectingCamera(realsense)
        case "video" | "images" | "episode":
            return _recording(options, profile)
        case _:
            raise InvalidValueError(f"camera source {options.source!r} is not one of {', '.join(SOURCES)}")


def _recording(options: CameraOptions, profile: CameraProfile) -> Camera:
    if options.source == "video":
        from openvla_ros.cameras.video_file import VideoFileCamera

        return VideoFileCamera(_path(options))
    from openvla_ros.cameras.playback_sources import EpisodeCamera, ImageFolderCamera

    if options.source == "images":
        return ImageFolderCamera(_path(options), profile.rate_hz)
    from openvla_ros.data.datasets.open_dataset import SourceRequest

    source = SourceRequest(_path(options)).open()
    if not 0 <= options.episode < len(source):
        raise InvalidValueError(
            f"{source.path} has no episode {options.episode}; it has {len(source)}, numbered from 0"
        )
    return EpisodeCamera(source[options.episode], options.episode_camera or profile.name)


def _path(options: CameraOptions) -> Path:
    if not options.path:
        raise InvalidValueError(f"camera source {options.source!r} needs a path")
    return Path(options.path).expanduser()
