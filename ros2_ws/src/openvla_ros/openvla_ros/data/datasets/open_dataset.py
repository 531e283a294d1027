"""Detects a dataset's format and opens it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from openvla_ros.data.bags.bag_export import ExportedBagSource, is_exported
from openvla_ros.data.bags.bag_folder import bag_folders
from openvla_ros.data.bags.bag_source import BagSource
from openvla_ros.data.episodes.composed_deltas import ComposedSource
from openvla_ros.data.episodes.converted_actions import ActionConversion, ConvertedSource
from openvla_ros.data.episodes.episode_source import EpisodeSource
from openvla_ros.data.episodes.followed_commands import FollowedSource
from openvla_ros.data.episodes.guarded_source import GuardedSource
from openvla_ros.data.episodes.measured_actions import MeasuredSource
from openvla_ros.data.episodes.profile_rate import ProfileRateSource
from openvla_ros.data.foreign_bags.recording_files import is_recording
from openvla_ros.data.formats.rlds_reader import RldsSource, find_dataset_folder
from openvla_ros.data.hdf.hdf5_layouts import SUFFIXES, hdf5_files, trajectory_files
from openvla_ros.data.hdf.hdf5_source import Hdf5Source
from openvla_ros.data.lerobot.lerobot_reader import LerobotSource
from openvla_ros.errors import DatasetError
from openvla_ros.integrity.checksums import absent
from openvla_ros.integrity.damage import reading
from openvla_ros.values.action import ActionSpace

Format = Literal["bag", "rlds", "lerobot", "hdf5"]
Actions = Literal["commanded", "measured"]
ACTIONS: tuple[Actions, ...] = get_args(Actions)
FORMATS: tuple[Format, ...] = get_args(Format)

_SIGNS = (
    "bag: a folder with metadata.yaml and an .mcap file, or a folder of such folders; "
    "rlds: a folder with dataset_info.json and features.json; "
    "lerobot: a folder with meta/info.json; "
    "hdf5: a .hdf5 or .h5 file, or a folder with one, or of DROID episodes"
)


def detect_format(path: Path) -> Format:
    """Return the format of the dataset at ``path``; raises ``DatasetError`` listing the known ones."""
    if not path.exists():
        raise DatasetError(f"{path} does not exist")
    if path.is_file():
        if path.suffix in SUFFIXES:
            return "hdf5"
        if path.suffix == ".mcap":
            return "bag"
    elif (path / "meta" / "info.json").is_file():
        return "lerobot"
    elif find_dataset_folder(path) is not None:
        return "rlds"
    elif bag_folders(path):
        return "bag"
    elif hdf5_files(path) or trajectory_files(path):
        return "hdf5"
    if is_recording(path):
        raise DatasetError(
            f"{path} was not recorded by openvla_ros; openvla import-bag turns it into episodes"
        )
    raise DatasetError(f"{path}: unknown format; the formats are {_SIGNS}")


@dataclass(frozen=True)
class SourceRequest:
    """What to open and how; small enough to send to another process."""

    path: Path
    split: str | None = None  # of an RLDS dataset
    convention: str | None = None  # entry of the table of conventions for an RLDS dataset
    space: ActionSpace | None = None  # the profile's: its rate, and what LeRobot's actions mean
    rate_hz: float | None = None  # compose consecutive deltas into steps of this rate
    actions: Actions = "commanded"  # or the arm's measured motion
    conversion: ActionConversion | None = None  # to actions of another kind

    def open(self, *, partial: bool = False) -> EpisodeSource:
        """Return the dataset; raises ``DatasetError`` if it cannot be opened or an option does not fit.

        With ``partial``, deleted files do not prevent reading the others; see ``absent``.
        """
        lost = [] if partial else self.absent()
        if lost:
            raise DatasetError(f"{self.path}: these files are missing: {', '.join(lost)}")
        with reading(self.path):
            source = self._open(detect_format(self.path))
            if self.rate_hz is not None:
                source = ComposedSource(source, self.rate_hz)
            elif self.space is not None:
                source = ProfileRateSource(source, self.space.rate_hz)
            source = MeasuredSource(source) if self.actions == "measured" else FollowedSource(source)
            if self.conversion is not None:
                source = ConvertedSource(source, self.conversion)
            return GuardedSource(source)

    def absent(self) -> list[str]:
        """Return the files that are listed in the dataset's ``SHA256SUMS`` but missing."""
        return absent(self.path) if self.path.is_dir() else []

    def _open(self, found: Format) -> EpisodeSource:
        if found != "rlds" and (self.split or self.convention):
            raise DatasetError(f"{self.path}: split and convention are for RLDS datasets; this is {found}")
        match found:
            case "rlds":
                return RldsSource(self.path, split=self.split, convention=self.convention)
            case "hdf5":
                return Hdf5Source(self.path)
            case "lerobot":
                return LerobotSource(self.path, space=self.space, any_rate=self.rate_hz is not None)
            case "bag":
                return ExportedBagSource(self.path) if is_exported(self.path) else BagSource(self.path)
