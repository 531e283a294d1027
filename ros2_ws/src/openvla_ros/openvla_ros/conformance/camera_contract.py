"""Conformance check for cameras (``openvla_ros.cameras.protocol.Camera``)."""

from __future__ import annotations

import time

import numpy as np

from openvla_ros.cameras.protocol import Camera, Frame, Intrinsics
from openvla_ros.conformance.contract import Contract, timed
from openvla_ros.errors import DeviceError, InvalidValueError
from openvla_ros.values.arrays import Image
from openvla_ros.values.time import seconds

MEMBERS = {
    "description": False, "playback_rate_hz": False, "intrinsics": False,
    "open": True, "read": True, "close": True,
}  # fmt: skip
LATE_S = 0.5  # tolerance of the timeout, for a busy machine
OLDEST_S = 10.0  # an older stamp is from another clock than the computer's
AHEAD_S = 0.05


def check_camera(camera: Camera, images: int = 3, timeout_s: float = 5.0) -> None:
    """Check ``camera`` against its protocol, and close it.

    Opens it, reads ``images`` images (fewer if a recording ends first), closes it twice, opens it again and
    reads one more.

    Args:
        camera: The camera to check, not open; a device must be plugged in.
        images: Number of images to read, at least 2.
        timeout_s: How long each image may take, seconds.

    Raises:
        ConformanceError: The first violation: what the contract says, what happened instead, and where
            the contract is written.
        InvalidValueError: ``images`` is less than 2.
    """
    if images < 2:
        raise InvalidValueError(f"images is {images}; at least 2 are needed to compare them")
    contract = Contract(Camera, type(camera).__name__)
    contract.check_members(camera, MEMBERS)
    contract.check_text("description", lambda: camera.description)
    _open(contract, camera)
    recording = _is_recording(contract, camera)
    first = _images(contract, camera, images, timeout_s, recording)
    _check_intrinsics(contract, camera, first)
    contract.check_close(camera.close)
    _open(contract, camera)
    again = _read(contract, camera, timeout_s, recording)
    contract.require(again is not None, "open", "a closed camera can be reopened", "no image after reopening")
    if recording and again is not None:
        contract.require(
            bool(np.array_equal(again.rgb, first)),
            "open",
            "it goes to the beginning of a recording",
            "a different first image than the first time",
        )
    contract.check_close(camera.close)


def _open(contract: Contract, camera: Camera) -> None:
    try:
        contract.call("open", camera.open, (DeviceError,))
    except DeviceError as error:
        raise contract.broken("open", "it opens a device that is plugged in", str(error)) from error


def _is_recording(contract: Contract, camera: Camera) -> bool:
    rate_hz = contract.call("playback_rate_hz", lambda: camera.playback_rate_hz)
    is_rate = rate_hz is None or (
        isinstance(rate_hz, (int, float)) and bool(np.isfinite(rate_hz)) and rate_hz > 0.0
    )
    contract.require(
        is_rate,
        "playback_rate_hz",
        "it is a recording's rate in Hz, or None for a device",
        repr(rate_hz),
    )
    return rate_hz is not None


def _images(contract: Contract, camera: Camera, count: int, timeout_s: float, recording: bool) -> Image:
    """Return a copy of the first image, after comparing ``count`` of them with each other."""
    first: Image | None = None
    last: Frame | None = None
    for _ in range(count):
        before = None if last is None else last.rgb.copy()
        frame = _read(contract, camera, timeout_s, recording)
        if frame is None:
            break
        if last is not None and before is not None:
            _check_pair(contract, last, before, frame)
        last = frame
        first = frame.rgb.copy() if first is None else first
    if first is None:
        raise contract.broken(
            "read", "it returns the next image", "None at the first call: an empty recording"
        )
    return first


def _read(contract: Contract, camera: Camera, timeout_s: float, recording: bool) -> Frame | None:
    try:
        frame, took_s = timed(lambda: contract.call("read", lambda: camera.read(timeout_s), (DeviceError,)))
    except DeviceError as error:
        raise contract.broken(
            "read", f"it returns the next image within {timeout_s:g} s", str(error)
        ) from error
    contract.require(
        took_s <= timeout_s + LATE_S,
        "read",
        "it raises DeviceError if there is no image within timeout_s",
        f"it took {took_s:.2f} s for a timeout of {timeout_s:g} s",
    )
    if frame is None:
        contract.require(
            recording, "read", "it returns None only at the end of a recording", "None from a device"
        )
        return None
    contract.require(
        isinstance(frame, Frame), "read", "it returns a Frame or None", f"a {type(frame).__name__}"
    )
    _check_stamp(contract, frame, recording)
    return frame


def _check_stamp(contract: Contract, frame: Frame, recording: bool) -> None:
    stamp = frame.stamp_ns
    if recording:
        contract.require(stamp is None, "read", "a recording's images have no stamp", f"stamp_ns={stamp}")
        return
    says = "stamp_ns is when the image was exposed, in nanoseconds since the epoch"
    if stamp is None:
        raise contract.broken("read", says, "stamp_ns=None from a device")
    age_s = seconds(time.time_ns() - stamp)
    contract.require(-AHEAD_S <= age_s <= OLDEST_S, "read", says, f"a stamp {age_s:.3f} s before now")


def _check_pair(contract: Contract, last: Frame, before: Image, frame: Frame) -> None:
    """Compare an image with the previous one; ``before`` is a copy of that one's pixels as returned."""
    contract.require(
        bool(np.array_equal(last.rgb, before)),
        "read",
        "an image never changes after it was returned",
        "the next read changed it: the buffer is reused, copy it",
    )
    contract.require(
        frame.rgb.shape == last.rgb.shape,
        "read",
        "all images have the same size",
        f"{frame.rgb.shape} after {last.rgb.shape}",
    )
    if frame.stamp_ns is not None and last.stamp_ns is not None:
        contract.require(
            frame.stamp_ns > last.stamp_ns,
            "read",
            "each image's stamp is later than the one before",
            f"{frame.stamp_ns} after {last.stamp_ns}",
        )


def _check_intrinsics(contract: Contract, camera: Camera, image: Image) -> None:
    lens = contract.call("intrinsics", lambda: camera.intrinsics)
    if lens is None:
        return
    contract.require(
        isinstance(lens, Intrinsics), "intrinsics", "it is Intrinsics or None", f"a {type(lens).__name__}"
    )
    height, width = image.shape[:2]
    contract.require(
        (lens.width, lens.height) == (width, height),
        "intrinsics",
        "it matches the images that are returned",
        f"intrinsics for {lens.width}x{lens.height}, images of {width}x{height}",
    )
