"""A USB camera, or any other /dev/video* device, through OpenCV."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2

from openvla_ros.cameras.protocol import Frame, Intrinsics
from openvla_ros.errors import DeviceError, InvalidValueError
from openvla_ros.values.time import NS_PER_S, nanoseconds

NS_PER_MS = 1_000_000
# A driver's own stamp is trusted if it is at most this old.
LONGEST_TRANSFER_NS = NS_PER_S


class Capture(Protocol):
    """The part of ``cv2.VideoCapture`` that is used."""

    def isOpened(self) -> bool: ...  # noqa: N802, D102
    def set(self, key: int, value: float) -> bool: ...  # noqa: D102
    def get(self, key: int) -> float: ...  # noqa: D102
    def read(self) -> tuple[bool, Any]: ...  # noqa: D102
    def release(self) -> None: ...  # noqa: D102


def open_video4linux(device: str) -> Capture:
    """Return OpenCV's capture of a device: a path, or the number in /dev/videoN."""
    return cv2.VideoCapture(int(device) if device.isdecimal() else device, cv2.CAP_V4L2)


def wait_video4linux(capture: Any, timeout_s: float) -> bool:
    """Return whether an image arrived within ``timeout_s``; ``read`` on its own would wait ten seconds."""
    ready: Sequence[int]
    try:
        found, ready = cv2.VideoCapture.waitAny([capture], timeoutNs=nanoseconds(timeout_s))
    except cv2.error as error:  # the device is gone
        raise DeviceError(f"waiting for an image failed: {error.err}") from error
    return bool(found and len(ready))


def video_devices() -> list[str]:
    """Return the capture devices of this machine, by stable name where they have one."""
    stable = Path("/dev/v4l/by-id")
    if stable.is_dir():
        return sorted(str(path) for path in stable.iterdir())
    return sorted(str(path) for path in Path("/dev").glob("video*"))


class UsbCamera:
    """A camera opened with OpenCV, by device path or number."""

    playback_rate_hz: float | None = None
    intrinsics: Intrinsics | None = None

    def __init__(
        self,
        device: str,
        width: int,
        height: int,
        rate_hz: float,
        pixel_format: str = "",
        *,
        open_capture: Callable[[str], Capture] = open_video4linux,
        wait: Callable[[Capture, float], bool] = wait_video4linux,
    ) -> None:
        if pixel_format and len(pixel_format) != 4:
            raise InvalidValueError(f"pixel format {pixel_format!r} is not a four-letter code such as MJPG")
        self.device, self.size, self.rate_hz, self.pixel_format = (
            device,
            (width, height),
            rate_hz,
            pixel_format,
        )
        self._open_capture, self._wait = open_capture, wait
        self._capture: Capture | None = None

    @property
    def description(self) -> str:
        """The device and the requested format."""
        width, height = self.size
        return f"USB camera {self.device}, {width}x{height} at {self.rate_hz:g} Hz"

    def open(self) -> None:
        """Open the device; raises ``DeviceError`` if it is missing or delivers another image size."""
        self.close()
        self._capture = capture = self._open_capture(self.device)
        if not capture.isOpened():
            self.close()
            found = ", ".join(video_devices()) or "none"
            raise DeviceError(f"{self.description}: cannot open it; devices on this machine: {found}")
        if self.pixel_format:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*self.pixel_format))
        width, height = self.size
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
        capture.set(cv2.CAP_PROP_FPS, self.rate_hz)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest image, not the oldest of four
        given = (
            int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        )
        if given != self.size:
            self.close()
            raise DeviceError(f"{self.description}: the camera delivers {given[0]}x{given[1]} instead")

    def read(self, timeout_s: float) -> Frame:
        """Return the next image; raises ``DeviceError`` if none arrives in time."""
        if self._capture is None:
            raise DeviceError(f"{self.description}: it is not open")
        if not self._wait(self._capture, timeout_s):
            raise DeviceError(f"{self.description}: no image within {timeout_s:g} s")
        done, bgr = self._capture.read()
        if not done or bgr is None:
            raise DeviceError(f"{self.description}: reading the image failed; is it still plugged in?")
        return Frame(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), self._stamp_ns(self._capture))

    def close(self) -> None:
        """Release the device."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    @staticmethod
    def _stamp_ns(capture: Capture) -> int:
        """Return when the image was taken: the driver's monotonic stamp if there is one, else now."""
        now = time.time_ns()
        age = time.monotonic_ns() - round(capture.get(cv2.CAP_PROP_POS_MSEC) * NS_PER_MS)
        return now - age if 0 <= age <= LONGEST_TRANSFER_NS else now
