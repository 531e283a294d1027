"""A camera that reconnects after it was unplugged.

Wraps any live camera. A camera that fails is closed and reopened after a delay that doubles up to a
limit. The first ``open`` is not retried: a camera that was never there is an error to report at start.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from openvla_ros.cameras.protocol import Camera, Frame, Intrinsics
from openvla_ros.errors import DeviceError

State = Literal["closed", "open", "waiting"]


class ReconnectingCamera:
    """Returns the images of ``camera``; between failure and recovery ``read`` raises ``DeviceError``."""

    playback_rate_hz: float | None = None

    def __init__(
        self,
        camera: Camera,
        *,
        first_delay_s: float = 0.5,
        longest_delay_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._camera, self._clock, self._sleep = camera, clock, sleep
        self._first_delay_s, self._longest_delay_s = first_delay_s, longest_delay_s
        self._delay_s, self._next_attempt = first_delay_s, 0.0
        self.state: State = "closed"
        self.reconnected_count = 0
        self.newest_error = ""

    @property
    def description(self) -> str:
        """The wrapped camera's description."""
        return self._camera.description

    @property
    def intrinsics(self) -> Intrinsics | None:
        """The lens of the wrapped camera."""
        return self._camera.intrinsics

    def open(self) -> None:
        """Open the camera; raises ``DeviceError`` if that fails."""
        self._camera.open()
        self.state, self._delay_s = "open", self._first_delay_s

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next image; raises ``DeviceError`` if there is none, after at most the timeout."""
        if self.state == "closed":
            raise DeviceError(f"{self.description}: it is not open")
        if self.state == "waiting":
            self._wait_and_reopen(timeout_s)
        try:
            frame = self._camera.read(timeout_s)
        except DeviceError as error:
            self._lost(error)
            raise
        self._delay_s = self._first_delay_s
        return frame

    def close(self) -> None:
        """Close the camera for good."""
        self._camera.close()
        self.state = "closed"

    def _wait_and_reopen(self, timeout_s: float) -> None:
        remaining = self._next_attempt - self._clock()
        self._sleep(max(0.0, min(remaining, timeout_s)))
        if remaining > timeout_s:
            left = remaining - timeout_s
            raise DeviceError(f"{self.newest_error}; retrying in {left:.1f} s")
        try:
            self._camera.open()
        except DeviceError as error:
            self._lost(error)
            raise
        self.state = "open"
        self.reconnected_count += 1

    def _lost(self, error: DeviceError) -> None:
        self._camera.close()
        self.state, self.newest_error = "waiting", str(error)
        self._next_attempt = self._clock() + self._delay_s
        self._delay_s = min(2.0 * self._delay_s, self._longest_delay_s)
