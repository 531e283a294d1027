"""Where things are shown: the viewer's protocol, and which one a request opens.

The viewers' packages are optional (the extra ``view``) and are imported only once one is opened.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from openvla_ros.dependencies import needed_for
from openvla_ros.errors import InvalidValueError, MissingDependencyError
from openvla_ros.viewing.shown import Shown, Stage

ViewerName = Literal["rerun", "foxglove"]
VIEWERS: tuple[ViewerName, ...] = get_args(ViewerName)
SUFFIXES = {"rerun": ".rrd", "foxglove": ".mcap"}
LOOPBACK = "127.0.0.1"
RERUN_PYTHON = (3, 11)  # the oldest that rerun-sdk 0.41 has a wheel for


class Viewer(Protocol):
    """Shows things; close it at the end."""

    where: str  # where a person finds what is shown, in words
    paced: bool  # whether what was recorded must be shown at its own pace
    stays: bool  # whether this process must stay for as long as somebody looks

    def show(self, thing: Shown) -> None:
        """Show one thing."""
        ...

    def restart(self) -> None:
        """Forget what was shown: it comes again from the beginning."""
        ...

    def flush(self) -> None:
        """Hand over everything so far."""
        ...

    def close(self) -> None:
        """Hand over everything and let go of the viewer."""
        ...


@dataclass(frozen=True)
class ViewerRequest:
    """Which viewer, and how it gets what is shown."""

    program: ViewerName = "rerun"
    save: Path | None = None  # a new file instead of a running viewer
    serve: bool = False  # rerun in a browser; Foxglove always connects to a server
    host: str = LOOPBACK
    port: int | None = None  # of the data; None: the viewer's own default
    web_port: int = 9090  # of rerun's page

    def __post_init__(self) -> None:
        if self.program not in VIEWERS:
            raise InvalidValueError(f"viewer is {self.program!r}; it must be one of {', '.join(VIEWERS)}")
        if self.save is not None:
            self._check_file(self.save)
        elif self.program == "rerun" and not self.serve and not has_display():
            raise InvalidValueError(
                "rerun cannot open a window: neither DISPLAY nor WAYLAND_DISPLAY is set; use --serve to look "
                "with a browser, or --save FILE.rrd"
            )

    def _check_file(self, path: Path) -> None:
        suffix = SUFFIXES[self.program]
        if self.serve:
            raise InvalidValueError(f"--save {path} and --serve exclude each other")
        if path.suffix != suffix:
            raise InvalidValueError(f"--save {path}: a file for {self.program} is called *{suffix}")
        if path.exists():
            raise InvalidValueError(f"--save {path}: the file exists; choose a new name")
        if not path.parent.is_dir():
            raise InvalidValueError(f"--save {path}: there is no folder {path.parent}")

    @property
    def warning(self) -> str | None:
        """What to know before strangers can look, or None where only this machine can."""
        if self.save is not None or is_loopback(self.host):
            return None
        return (
            f"{self.host} is not this machine alone: whoever reaches it sees the cameras and what the robot "
            "does, without a password and unencrypted"
        )


def open_viewer(request: ViewerRequest, stage: Stage) -> Viewer:
    """Return the viewer that ``request`` asks for, ready to show.

    Raises ``MissingDependencyError`` where its package is not installed, and ``DeviceError`` where it cannot
    be started.
    """
    if request.program == "rerun" and sys.version_info < RERUN_PYTHON:
        raise MissingDependencyError(
            "openvla view --in rerun needs Python 3.11 or newer, as rerun-sdk does; use --in foxglove"
        )
    with needed_for(f"openvla view --in {request.program}"):
        match request.program:
            case "rerun":
                from openvla_ros.viewing.rerun_viewer import RerunViewer

                return RerunViewer(stage, request)
            case "foxglove":
                from openvla_ros.viewing.foxglove_viewer import FoxgloveViewer

                return FoxgloveViewer(stage, request)


def has_display() -> bool:
    """Return whether a window can be opened here."""
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches ``host``; raises ``InvalidValueError`` if it is no address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise InvalidValueError(
            f"--host {host!r} is not an IP address of this machine, such as {LOOPBACK} or 0.0.0.0"
        ) from error
