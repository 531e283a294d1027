"""The protocol of every image source, and the values it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from openvla_ros.errors import InvalidValueError
from openvla_ros.preprocessing.image_encoding import Depth
from openvla_ros.values.arrays import Float, Image, float_array, image_array, read_only


@dataclass(frozen=True, eq=False)
class Frame:
    """One image."""

    rgb: Image  # (H, W, 3) uint8 RGB
    stamp_ns: int | None  # time of exposure, ns since the epoch; None for recordings
    depth: Depth | None = None  # (H, W) float32 metres, aligned to the colour image; NaN: no measurement

    def __post_init__(self) -> None:
        object.__setattr__(self, "rgb", image_array("frame", self.rgb))
        if self.depth is not None:
            if self.depth.shape != self.rgb.shape[:2]:
                raise InvalidValueError(
                    f"depth of shape {self.depth.shape} is not aligned with colour of shape {self.rgb.shape}"
                )
            object.__setattr__(self, "depth", read_only(self.depth))


@dataclass(frozen=True, eq=False)
class Intrinsics:
    """A calibrated lens: pinhole and distortion, as in sensor_msgs/CameraInfo."""

    width: int
    height: int
    matrix: Float  # (3, 3) pixels
    distortion_model: str  # "plumb_bob", "rational_polynomial" or "equidistant"
    distortion: Float  # (N,) coefficients of that model

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", float_array("camera matrix", self.matrix, (3, 3)))
        object.__setattr__(self, "distortion", float_array("distortion", self.distortion, (None,)))


@runtime_checkable
class Camera(Protocol):
    """A device or a recording that returns one image after another."""

    @property
    def description(self) -> str:
        """One line for logs: what this is, and where it is plugged in or stored."""
        ...

    @property
    def playback_rate_hz(self) -> float | None:
        """Rate at which a recording was made, Hz; None for a device, which sets its own."""
        ...

    @property
    def intrinsics(self) -> Intrinsics | None:
        """The lens calibration, if the source knows it. Valid after ``open``."""
        ...

    def open(self) -> None:
        """Open the device, or go to the beginning of the recording.

        Raises:
            DeviceError: The device is missing or busy, or the recording cannot be read.
        """
        ...

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next image.

        Args:
            timeout_s: How long to wait for an image, seconds.

        Returns:
            The image, uint8 (H, W, 3) RGB, with its stamp; None at the end of a recording.

        Raises:
            DeviceError: The device delivers no image within ``timeout_s``.
        """
        ...

    def close(self) -> None:
        """Release the device. Safe to call twice, and after a failed ``open``."""
        ...
