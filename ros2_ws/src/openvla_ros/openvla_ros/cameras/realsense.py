"""An Intel RealSense camera through pyrealsense2: colour, and depth aligned to it."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np

from openvla_ros.cameras.protocol import Frame, Intrinsics
from openvla_ros.errors import DeviceError, MissingDependencyError

NS_PER_MS = 1_000_000


def import_realsense() -> Any:
    """Return the module ``pyrealsense2``; ``MissingDependencyError`` says how to install it."""
    try:
        import pyrealsense2
    except ImportError as error:
        raise MissingDependencyError(
            "a RealSense camera needs pyrealsense2: pip install pyrealsense2, and on Debian or Ubuntu "
            f"apt install libusb-1.0-0 ({error})"
        ) from error
    return pyrealsense2


class RealSenseCamera:
    """A RealSense camera: the one with the given serial number, or else the only one plugged in."""

    playback_rate_hz: float | None = None

    def __init__(
        self,
        serial: str,
        width: int,
        height: int,
        rate_hz: float,
        *,
        depth: bool = True,
        library: Any = None,
    ) -> None:
        self.serial, self.size, self.rate_hz, self.depth = serial, (width, height), rate_hz, depth
        self._rs = import_realsense() if library is None else library
        self._pipeline: Any = None
        self._align: Any = None
        self._metres_per_count = 0.0
        self._intrinsics: Intrinsics | None = None

    @property
    def description(self) -> str:
        """The camera and the requested streams."""
        width, height = self.size
        with_depth = " with depth" if self.depth else ""
        return f"RealSense {self.serial or 'camera'}, {width}x{height} at {self.rate_hz:g} Hz{with_depth}"

    @property
    def intrinsics(self) -> Intrinsics | None:
        """The colour lens, from the factory calibration."""
        return self._intrinsics

    def open(self) -> None:
        """Start the streams; ``DeviceError`` lists the cameras that are plugged in."""
        self.close()
        rs, (width, height), rate = self._rs, self.size, round(self.rate_hz)
        config = rs.config()
        if self.serial:
            config.enable_device(self.serial)
        config.enable_stream(rs.stream.color, width, height, rs.format.rgb8, rate)
        if self.depth:
            config.enable_stream(rs.stream.depth, rs.format.z16, rate)
        pipeline = rs.pipeline()
        try:
            profile = pipeline.start(config)
        except RuntimeError as error:
            found = ", ".join(self._serials()) or "none"
            raise DeviceError(f"{self.description}: {error}; RealSense cameras found: {found}") from error
        self._pipeline = pipeline
        if self.depth:
            self._align = rs.align(rs.stream.color)
            self._metres_per_count = float(profile.get_device().first_depth_sensor().get_depth_scale())
        self._intrinsics = _intrinsics(profile.get_stream(rs.stream.color).as_video_stream_profile())

    def read(self, timeout_s: float) -> Frame:
        """Return the next colour image with its depth; raises ``DeviceError`` if none arrives in time."""
        if self._pipeline is None:
            raise DeviceError(f"{self.description}: it is not open")
        try:
            frames = self._pipeline.wait_for_frames(round(timeout_s * 1000))
        except RuntimeError as error:
            raise DeviceError(f"{self.description}: {error}") from error
        if self.depth:
            frames = self._align.process(frames)
        colour = frames.get_color_frame()
        if not colour:
            raise DeviceError(f"{self.description}: received frames without colour")
        # The library reuses its buffers: copy.
        rgb = np.array(colour.get_data(), dtype=np.uint8)
        return Frame(rgb, self._stamp_ns(colour), self._depth(frames) if self.depth else None)

    def close(self) -> None:
        """Stop the streams."""
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            # A camera that was unplugged can no longer be stopped, nor does it need to be.
            with contextlib.suppress(RuntimeError):
                pipeline.stop()

    def _depth(self, frames: Any) -> Any:
        frame = frames.get_depth_frame()
        if not frame:
            raise DeviceError(f"{self.description}: received frames without depth")
        counts = np.asarray(frame.get_data())
        metres = counts.astype(np.float32) * np.float32(self._metres_per_count)
        metres[counts == 0] = np.nan
        return metres

    def _stamp_ns(self, frame: Any) -> int:
        """Return when the image was taken, if the camera's clock is synchronised with ours; else now."""
        domains = self._rs.timestamp_domain
        if frame.get_frame_timestamp_domain() in (domains.global_time, domains.system_time):
            return round(float(frame.get_timestamp()) * NS_PER_MS)
        return time.time_ns()

    def _serials(self) -> list[str]:
        devices = self._rs.context().query_devices()
        return [device.get_info(self._rs.camera_info.serial_number) for device in devices]


def _intrinsics(stream: Any) -> Intrinsics:
    lens = stream.get_intrinsics()
    matrix = np.array([[lens.fx, 0.0, lens.ppx], [0.0, lens.fy, lens.ppy], [0.0, 0.0, 1.0]])
    return Intrinsics(lens.width, lens.height, matrix, "plumb_bob", np.array(lens.coeffs, dtype=np.float64))
