"""A video file played as a camera, in any codec that PyAV decodes; OpenCV's wheels cannot decode AV1."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np

from openvla_ros.cameras.protocol import Frame, Intrinsics
from openvla_ros.errors import DeviceError

_THREADS = 2  # of the decoder, beside a policy and a control loop


class VideoFileCamera:
    """The images of a video file, in order, at the file's own rate, upright as a player shows them."""

    intrinsics: Intrinsics | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())
        self._rate_hz: float | None = None

    @property
    def description(self) -> str:
        """The file."""
        return f"video {self.path}"

    @property
    def playback_rate_hz(self) -> float:
        """The file's own rate, Hz; known once the file is open."""
        if self._rate_hz is None:
            raise DeviceError(f"{self.description}: it is not open")
        return self._rate_hz

    def open(self) -> None:
        """Go to the first image; raises ``DeviceError`` if the file cannot be played or holds no image."""
        self.close()
        if not self.path.is_file():
            raise DeviceError(f"{self.description}: no such file")
        try:
            self._container = av.open(str(self.path))
            self._start()
        except av.FFmpegError as error:
            self.close()
            raise DeviceError(f"{self.description}: not a video that can be played: {error}") from error
        except DeviceError:
            self.close()
            raise

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next image, None after the last; raises ``DeviceError`` where the file is damaged."""
        if self._container is None:
            raise DeviceError(f"{self.description}: it is not open")
        try:
            frame = next(self._frames, None)
        except av.FFmpegError as error:
            raise DeviceError(f"{self.description}: an image cannot be decoded: {error}") from error
        if frame is None:
            return None
        turns = round(frame.rotation / 90)  # counterclockwise, as the file asks players to show it
        return Frame(np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns)), None)

    def close(self) -> None:
        """Close the file."""
        self._frames = iter(())
        if self._container is not None:
            self._container.close()
            self._container = None

    def _start(self) -> None:
        if not self._container.streams.video:
            raise DeviceError(f"{self.description}: contains no video")
        stream = self._container.streams.video[0]
        stream.thread_count = _THREADS
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise DeviceError(f"{self.description}: does not state its rate")
        self._frames = self._container.decode(stream)
        first = next(self._frames, None)
        if first is None:
            raise DeviceError(f"{self.description}: holds no image (codec {stream.codec_context.name})")
        self._frames = chain([first], self._frames)
        self._rate_hz = float(rate)
