"""Pictures of one camera kept as a video, with random access by index.

Videos are lossy. Reading seeks to the key frame before the wanted picture; reading in order decodes
every picture once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import av
import numpy as np

from openvla_ros.arrays import Image, image_array
from openvla_ros.errors import DatasetError, InvalidValueError

Codec = Literal["av1", "h264"]
CODECS: tuple[Codec, ...] = get_args(Codec)

# A key frame every 2 pictures is LeRobot's choice for random access; crf and presets favour size
# and speed in the same way.
_KEY_FRAME_EVERY = "2"
_ENCODERS: dict[Codec, tuple[str, dict[str, str]]] = {
    "av1": ("libsvtav1", {"g": _KEY_FRAME_EVERY, "crf": "30", "preset": "8", "svtav1-params": "lp=1"}),
    "h264": ("libx264", {"g": _KEY_FRAME_EVERY, "crf": "18", "preset": "fast", "threads": "1"}),
}
_AHEAD = 8  # pictures: a wanted one this near is reached by decoding on, a farther one by seeking


class VideoWriter:
    """Appends pictures of one size to a video file; a context manager."""

    def __init__(self, path: Path, rate_hz: float, codec: Codec) -> None:
        if codec not in _ENCODERS:
            raise InvalidValueError(f"video codec is {codec!r}; choose from {CODECS}")
        os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder otherwise writes a page to stderr
        self._encoder, self._options = _ENCODERS[codec]
        self._path = path
        self._rate = _fraction(rate_hz)
        self._container = av.open(str(path), "w")
        self._stream: Any = None
        self.count = 0

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()

    def add(self, picture: Image) -> None:
        """Append ``picture`` uint8 (H, W, 3) RGB; height and width must be even."""
        if self._stream is None:
            self._open(picture)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts = self.count
        self._container.mux(self._stream.encode(frame))
        self.count += 1

    def _open(self, picture: Image) -> None:
        height, width = picture.shape[:2]
        if height % 2 or width % 2:
            raise InvalidValueError(
                f"{self._path}: a video needs even sizes, the pictures are {width}×{height}"
            )
        self._stream = self._container.add_stream(self._encoder, rate=self._rate, options=self._options)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"


def _fraction(rate_hz: float) -> Fraction:
    return Fraction(rate_hz).limit_denominator(1001)


class VideoFrames:
    """Pictures of one episode inside a video file, which is opened at the first access."""

    def __init__(self, path: Path, start_s: float, count: int, rate_hz: float) -> None:
        self._path, self._start_s, self._count, self._rate_hz = path, start_s, count, rate_hz
        self._frames: Iterator[Any] | None = None
        self._container: Any = None
        self._next = 0  # index of the picture that the iterator gives next

    def __len__(self) -> int:
        return self._count

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_frames": None, "_container": None}

    def __del__(self) -> None:
        if self._container is not None:
            self._container.close()

    def __getitem__(self, index: int) -> Image:
        index = range(self._count)[index]
        try:
            if self._frames is None or not self._next <= index <= self._next + _AHEAD:
                self._seek(index)
            return self._decode(index)
        except (av.FFmpegError, OSError, IndexError) as error:  # IndexError: there is no video stream
            raise DatasetError(f"{self._path}: picture {index} cannot be decoded: {error}") from error

    def _seek(self, index: int) -> None:
        if self._container is None:
            self._container = av.open(str(self._path))
            self._container.streams.video[0].thread_count = 1
        stream = self._container.streams.video[0]
        self._container.seek(int(self._time(index) / stream.time_base), stream=stream, backward=True)
        self._frames = self._container.decode(stream)

    def _decode(self, index: int) -> Image:
        wanted = self._time(index) - 0.5 / self._rate_hz
        for frame in self._frames or ():
            if frame.time >= wanted:
                if frame.time > wanted + 1.0 / self._rate_hz:
                    raise DatasetError(f"{self._path}: there is no picture at {self._time(index):.3f} s")
                self._next = index + 1
                return image_array(str(self._path), frame.to_ndarray(format="rgb24"))
        self._frames = None
        raise DatasetError(f"{self._path}: ends before picture {index} at {self._time(index):.3f} s")

    def _time(self, index: int) -> float:
        return self._start_s + index / self._rate_hz
