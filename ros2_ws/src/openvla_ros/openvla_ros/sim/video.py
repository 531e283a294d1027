"""An MP4 of a simulated camera, with the instruction as caption."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from openvla_ros.integrity.disk import writing
from openvla_ros.values.arrays import Image

FONT = cv2.FONT_HERSHEY_SIMPLEX
MARGIN_PX = 10  # beside the caption


@dataclass(frozen=True)
class Caption:
    """What a video says below the image: the words that the robot was told, as they were said."""

    words: str
    understood: bool = True  # whether success is judged by these words

    def text(self, *, success: bool) -> str:
        """Return the caption; ``success``: what was understood last is done."""
        if not self.understood:
            return f"{self.words}  [not understood]"
        return f"{self.words}  [done]" if success else self.words


class VideoWriter:
    """Writes RGB images of one size at ``rate_hz`` as H.264; ``DatasetError`` if the disk is full."""

    def __init__(self, path: str | Path, width: int, height: int, rate_hz: float) -> None:
        """Create ``path``; ``width`` and ``height`` must be even."""
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # A fragmented file can be played up to the last fragment even if the process was killed.
        options = {"movflags": "frag_keyframe+empty_moov"}
        with writing(self._path):
            self._file = _Output(self._path)
        self._container: Any = av.open(self._file, "w", format="mp4", options=options)
        self._stream = self._container.add_stream("libx264", rate=Fraction(rate_hz).limit_denominator(1000))
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.options = {"preset": "ultrafast", "crf": "23"}
        self._stream.codec_context.thread_count = 1
        self._stream.codec_context.gop_size = round(rate_hz)
        self._closed = False

    def write(self, image: Image, caption: str = "") -> None:
        """Append ``image``, uint8 (H, W, 3) RGB of the writer's size, with ``caption`` below."""
        canvas = np.array(image)
        if caption:
            (x, y), scale = (MARGIN_PX, canvas.shape[0] - 14), canvas.shape[0] / 800.0
            width = cv2.getTextSize(caption, FONT, scale, 1)[0][0]
            scale *= min(1.0, (canvas.shape[1] - 2 * MARGIN_PX) / max(1, width))  # all of it is legible
            # The same weight twice: a heavier shadow would have wider letters.
            for shift, colour in ((1, (0, 0, 0)), (0, (255, 255, 255))):
                at = (x + shift, y + shift)
                cv2.putText(canvas, caption, at, FONT, scale, colour, 1, cv2.LINE_AA)
        frame = av.VideoFrame.from_ndarray(canvas, format="rgb24")
        for packet in self._stream.encode(frame):
            self._container.mux(packet)
        self._check()

    def close(self) -> None:
        """Finish the file. Safe to call twice."""
        if not self._closed:
            self._closed = True
            for packet in self._stream.encode():
                self._container.mux(packet)
            self._container.close()
            self._file.close()
            self._check()

    def _check(self) -> None:
        with writing(self._path):
            if self._file.error is not None:
                raise self._file.error


class _Output:
    """A file whose first failed write is kept: FFmpeg goes on after one, and says nothing."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            if self.error is None:
                self._file.write(data)
                self._file.flush()
        except OSError as error:
            self.error = error
        return len(data)

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or error
