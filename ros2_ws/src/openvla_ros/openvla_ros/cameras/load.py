"""Chooses the camera for a source's name, in one visible place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from openvla_ros.cameras.protocol import Camera
from openvla_ros.cameras.realsense import RealSenseCamera
from openvla_ros.cameras.reconnecting import ReconnectingCamera
from openvla_ros.cameras.recordings import EpisodeCamera, ImageFolderCamera, VideoFileCamera
from openvla_ros.cameras.usb import UsbCamera
from openvla_ros.data.detect import SourceRequest
from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import CameraProfile

SOURCES = ("usb", "realsense", "video", "images", "episode")


@dataclass(frozen=True)
class CameraOptions:
    """What the person who starts a camera chooses."""

    source: str  # one of SOURCES
    device: str = ""  # USB: device path or number; RealSense: serial number, empty for the only one
    path: str = ""  # recordings: a video file, a folder of images, a dataset
    pixel_format: str = ""  # USB: four-letter code such as MJPG, empty for the driver's own choice
    depth: bool = True  # RealSense: give depth too
    episode: int = 0  # which episode of the dataset
    episode_camera: str = ""  # which of its cameras, empty for the profile's name


def load_camera(options: CameraOptions, profile: CameraProfile) -> Camera:
    """Return the camera that ``options`` ask for, not yet open; devices reconnect by themselves.

    Raises ``InvalidValueError`` for a source that does not exist, ``MissingDependencyError`` for
    one whose library is not installed, ``DatasetError`` for an episode that cannot be read.
    """
    match options.source:
        case "usb":
            usb = UsbCamera(
                options.device or "0", profile.width, profile.height, profile.rate_hz, options.pixel_format
            )
            return ReconnectingCamera(usb)
        case "realsense":
            realsense = RealSenseCamera(
                options.device, profile.width, profile.height, profile.rate_hz, depth=options.depth
            )
            return ReconnectingCamera(realsense)
        case "video":
            return VideoFileCamera(_path(options))
        case "images":
            return ImageFolderCamera(_path(options), profile.rate_hz)
        case "episode":
            source = SourceRequest(_path(options)).open()
            if not 0 <= options.episode < len(source):
                raise InvalidValueError(
                    f"{source.path} has no episode {options.episode}; it has {len(source)}, from 0"
                )
            return EpisodeCamera(source[options.episode], options.episode_camera or profile.name)
        case _:
            raise InvalidValueError(f"camera source {options.source!r} is not one of {', '.join(SOURCES)}")


def _path(options: CameraOptions) -> Path:
    if not options.path:
        raise InvalidValueError(f"camera source {options.source!r} needs a path")
    return Path(options.path).expanduser()
