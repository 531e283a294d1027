"""Images of one camera kept as a video, with random access by index.

Videos are lossy. Reading seeks to the key frame before the wanted image; reading in order decodes
every image once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from openvla_ros.data.episodes.scheduling import kept_scheduling
from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.integrity.checksums import verify
from openvla_ros.integrity.damage import reading
from openvla_ros.integrity.disk import writing
from openvla_ros.values.arrays import Float, Image, image_array

Codec = Literal["av1", "h264"]
CODECS: tuple[Codec, ...] = get_args(Codec)

# A key frame every 2 images is LeRobot's choice for random access; crf and presets favour size
# and speed in the same way.
_KEY_FRAME_EVERY = "2"
_ENCODERS: dict[Codec, tuple[str, dict[str, str]]] = {
    "av1": ("libsvtav1", {"g": _KEY_FRAME_EVERY, "crf": "30", "preset": "9", "svtav1-params": "lp=1"}),
    "h264": ("libx264", {"g": _KEY_FRAME_EVERY, "crf": "18", "preset": "fast", "threads": "1"}),
}
# Where a file does not say which images are key frames, a wanted one this near is reached by decoding on.
_AHEAD = 8
SAME_TIME = 0.05  # of a period: an image this much before the wanted time is the one; files round times


class VideoWriter:
    """Appends images of one size to a video file; a context manager.

    Every method raises ``DatasetError`` if the disk is full.
    """

    def __init__(self, path: Path, rate_hz: float, codec: Codec) -> None:
        if codec not in _ENCODERS:
            raise InvalidValueError(f"video codec is {codec!r}; choose from {CODECS}")
        os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder otherwise writes a page to stderr
        self._encoder, self._options = _ENCODERS[codec]
        self._path = path
        self._rate = _fraction(rate_hz)
        with writing(path):
            self._container = av.open(str(path), "w")
        self._stream: Any = None
        self.count = 0

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with writing(self._path):
            try:
                if self._stream is not None and kind is None:
                    self._container.mux(self._stream.encode(None))
            finally:
                self._container.close()

    def add(self, image: Image) -> None:
        """Append ``image`` uint8 (H, W, 3) RGB; for H.264 height and width must be even."""
        if self._stream is None:
            self._open(image)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts = self.count
        # The encoder opens, and starts its threads, with the first image.
        with kept_scheduling() if self.count == 0 else nullcontext():
            packets = self._stream.encode(frame)
        with writing(self._path):
            self._container.mux(packets)
        self.count += 1

    def _open(self, image: Image) -> None:
        height, width = image.shape[:2]
        if self._encoder == "libx264" and (height % 2 or width % 2):
            raise InvalidValueError(
                f"{self._path}: H.264 needs even sizes, the images are {width}×{height}; AV1 takes them"
            )
        self._stream = self._container.add_stream(self._encoder, rate=self._rate, options=self._options)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"


def _fraction(rate_hz: float) -> Fraction:
    return Fraction(rate_hz).limit_denominator(1001)


def check_length(path: Path, start_s: float, count: int, rate_hz: float) -> None:
    """Raise ``DatasetError`` unless a video holds ``count`` images from ``start_s`` seconds on.

    Only the header is read, not the images: a truncated or replaced file has too few of them.
    """
    verify(path)
    held = _image_count(path, path.stat().st_mtime_ns if path.is_file() else 0)
    needed = round(start_s * rate_hz) + count
    if start_s < 0 or held < needed:
        raise DatasetError(f"{path}: contains {held} images; the episode needs {needed}")


def video_length(path: Path) -> tuple[int, float]:
    """Return how many images a video holds and its rate in Hz; raises ``DatasetError`` if it has no rate."""
    verify(path)
    with reading(path), av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
    if not rate:
        raise DatasetError(f"{path}: does not state its frame rate")
    return _image_count(path, path.stat().st_mtime_ns), float(rate)


@lru_cache(maxsize=256)
def _image_count(path: Path, _: int) -> int:
    with reading(path), av.open(str(path)) as container:
        stream = container.streams.video[0]
        if stream.frames:
            return int(stream.frames)
        return sum(1 for _ in container.decode(stream))  # a container without a count


@dataclass(frozen=True, eq=False)
class _Timeline:
    """When a video's first image is shown (in some files not at 0), and its key frames; seconds."""

    first_s: float
    keys_s: Float  # increasing; empty where the file or PyAV does not say


@lru_cache(maxsize=256)
def _timeline(path: Path, _: int) -> _Timeline:
    with reading(path), av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        entries = getattr(stream, "index_entries", ())  # older versions of PyAV have none
        if len(entries) < 2:  # Matroska's index is not read before the first seek
            entries = ()
        keys = [float(entry.timestamp * stream.time_base) for entry in entries if entry.is_keyframe]
        for frame in container.decode(stream):
            return _Timeline(float(frame.time or 0.0), np.unique(keys))
    raise DatasetError(f"{path}: holds no images")


class VideoFrames:
    """Images of one episode inside a video file, which is opened at the first access.

    Image ``index`` is the one shown nearest to ``index`` steps after ``start_s``, both counted from the
    file's first image, whatever time that one carries; within half a step, or there is none.
    """

    def __init__(self, path: Path, start_s: float, count: int, rate_hz: float) -> None:
        self._path, self._start_s, self._count, self._rate_hz = path, start_s, count, rate_hz
        self._frames: Iterator[Any] | None = None
        self._container: Any = None
        # Kept from image to image: making one takes ten times as long as converting an image with it.
        self._to_rgb: Any = None
        self._next = 0  # index of the image that the iterator gives next
        self._timeline = _Timeline(0.0, np.zeros(0))

    def __len__(self) -> int:
        return self._count

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_frames": None, "_container": None, "_to_rgb": None}

    def __del__(self) -> None:
        if self._container is not None:
            self._container.close()

    def __getitem__(self, index: int) -> Image:
        index = range(self._count)[index]
        try:
            if not self._is_ahead(index):
                self._seek(index)
            return self._decode(index)
        except (av.FFmpegError, OSError, IndexError) as error:  # IndexError: there is no video stream
            raise DatasetError(f"{self._path}: image {index} cannot be decoded: {error}") from error

    def _is_ahead(self, index: int) -> bool:
        """Return whether decoding on reaches the image with less work than seeking."""
        if self._frames is None or index < self._next:
            return False
        keys_s, half_s = self._timeline.keys_s, 0.5 / self._rate_hz
        if not len(keys_s):
            return index <= self._next + _AHEAD
        newest = int(np.searchsorted(keys_s, self._time(index) + half_s)) - 1
        return newest < 0 or bool(keys_s[newest] <= self._time(self._next) + half_s)

    def _seek(self, index: int) -> None:
        if self._container is None:
            verify(self._path)
            self._timeline = _timeline(self._path, self._path.stat().st_mtime_ns)
            self._container, self._to_rgb = av.open(str(self._path)), VideoReformatter()
            self._container.streams.video[0].thread_count = 1
        stream = self._container.streams.video[0]
        wanted_s, back_s = self._time(index), 1.0 / self._rate_hz
        target_s = wanted_s
        while True:
            self._container.seek(int(target_s / stream.time_base), stream=stream, backward=True)
            frames = self._container.decode(stream)
            first = next(frames, None)
            # Containers look for the time of decoding, which in some videos is earlier than that of showing.
            if first is None or first.time <= wanted_s or target_s <= self._timeline.first_s:
                break
            target_s = max(self._timeline.first_s, min(target_s, first.time) - back_s)
            back_s *= 2.0
        self._frames = frames if first is None else chain([first], frames)

    def _decode(self, index: int) -> Image:
        wanted_s, period_s = self._time(index), 1.0 / self._rate_hz
        nearest: Any = None
        frames = self._frames or iter(())
        for frame in frames:
            if nearest is not None and abs(frame.time - wanted_s) >= abs(nearest.time - wanted_s):
                self._frames = chain([frame], frames)
                break
            nearest = frame
            if frame.time >= wanted_s - SAME_TIME * period_s:
                break
        if nearest is None or abs(nearest.time - wanted_s) > 0.5 * period_s:
            self._frames = None
            has = "ends before it" if nearest is None else f"the nearest is at {nearest.time:.3f} s"
            raise DatasetError(f"{self._path}: no image {index} at {wanted_s:.3f} s: {has}")
        self._next = index + 1
        rgb = self._to_rgb.reformat(nearest, format="rgb24").to_ndarray()
        return image_array(str(self._path), rgb)

    def _time(self, index: int) -> float:
        return self._timeline.first_s + self._start_s + index / self._rate_hz
