"""Statistics of one recorded stream: measured rate, gaps, lag, and frozen or black images."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from openvla_ros.data.bags import cdr
from openvla_ros.errors import InvalidValueError
from openvla_ros.values.time import seconds

# An image whose brightest sampled value is below this is black: a cap, or a driver without exposure.
BLACK_LEVEL = 10
SAMPLE_STRIDE = 97  # stride of the sampled bytes; prime, so that no column is always missed
# The same pixels for this long mean a frozen camera: sensors have noise.
FROZEN_S = 1.0


class StreamStatistics:
    """Counts the messages of one stream by their own stamps."""

    def __init__(self, name: str, rate_hz: float) -> None:
        self.name, self.rate_hz = name, rate_hz
        self.count = 0
        self.missing = 0  # periods in which a message was due and none came
        self.backwards = 0
        self.first_ns = self.last_ns = 0
        self._lag_sum = 0.0
        self.lag_max_s = 0.0

    def add(self, stamp_ns: int, received_ns: int) -> None:
        """Note one message."""
        if self.count:
            periods = seconds(stamp_ns - self.last_ns) * self.rate_hz
            self.backwards += periods < 0
            self.missing += max(0, round(periods) - 1)
        else:
            self.first_ns = stamp_ns
        self.count += 1
        self.last_ns = stamp_ns
        lag = seconds(received_ns - stamp_ns)
        self._lag_sum += lag
        self.lag_max_s = max(self.lag_max_s, lag)

    @property
    def measured_rate_hz(self) -> float:
        """Rate by the messages' stamps, Hz; 0 while unknown."""
        span = seconds(self.last_ns - self.first_ns)
        return (self.count - 1) / span if self.count > 1 and span > 0 else 0.0

    @property
    def lag_mean_s(self) -> float:
        """Mean time from a message's stamp to its arrival."""
        return self._lag_sum / self.count if self.count else 0.0

    @property
    def slow(self) -> bool:
        """Whether the measured rate is below nine tenths of the nominal one."""
        return self.count > 5 and self.measured_rate_hz < 0.9 * self.rate_hz


@dataclass
class ImageWatch:
    """Detects frozen and black images, from a sample of their bytes."""

    frozen_s: float = 0.0  # longest stretch of equal images
    black_s: float = 0.0  # longest stretch of black ones
    _digest: int | None = None
    _same_since_ns: int = 0
    _black_since_ns: int | None = None

    def look(self, type_name: str, data: bytes | memoryview, stamp_ns: int) -> None:
        """Look at one serialised image."""
        try:
            digest, brightest = _sample(type_name, data)
        except (
            InvalidValueError
        ):  # an unreadable message cannot be stored either: the writer raises that alarm
            return
        if digest != self._digest:
            self._digest, self._same_since_ns = digest, stamp_ns
        self.frozen_s = max(self.frozen_s, seconds(stamp_ns - self._same_since_ns))
        if brightest >= BLACK_LEVEL:
            self._black_since_ns = None
        elif self._black_since_ns is None:
            self._black_since_ns = stamp_ns
        if self._black_since_ns is not None:
            self.black_s = max(self.black_s, seconds(stamp_ns - self._black_since_ns))

    def same_s(self, stamp_ns: int) -> float:
        """Seconds for which the image has been the same by ``stamp_ns``."""
        return 0.0 if self._digest is None else seconds(stamp_ns - self._same_since_ns)


def _sample(type_name: str, data: bytes | memoryview) -> tuple[int, int]:
    """Return a checksum and the brightest value of a sample of the image."""
    if type_name == cdr.IMAGE:
        sample = np.frombuffer(cdr.parse_image(data).data, np.uint8)[::SAMPLE_STRIDE]
        return zlib.crc32(sample.tobytes()), int(sample.max(initial=0))
    image = cdr.parse_compressed_image(data)[1]
    # A JPEG of one colour is a few thousand equal bytes; only such small ones are worth decoding.
    small = len(image) < 20_000
    brightest = int(cdr.decode_image(type_name, data).max(initial=0)) if small else 255
    return zlib.crc32(image), brightest
