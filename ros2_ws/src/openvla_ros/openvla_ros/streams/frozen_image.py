"""Recognises a camera that repeats one image with fresh stamps.

A driver whose device hangs may publish its last image again and again, each with the time of publishing: its
age says nothing, and a policy acts on a scene that is gone. No two images of a real sensor are equal to the
bit. Equal ones of a simulator are no fault while nothing moves, so an image counts as frozen only if it stays
the same after the arm has moved. An arm that a simulator's camera does not see would still be refused.
"""

from __future__ import annotations

import numpy as np

from openvla_ros.values.arrays import Float

# The arm has moved if a joint has turned by this much: about 3 degrees.
MOVED_RAD = 0.05
# Images of a live camera differ within these bytes in the middle; the rest is compared only if they do not.
_SAMPLE = 4096
NS = 1e-9


class FrozenImage:
    """What is known of one camera's newest image: since when it is the same, and where the arm was then."""

    def __init__(self) -> None:
        self._message = b""
        self._first_ns = 0
        self._count = 0
        self._joints: Float | None = None
        self._moved_ns: int | None = None  # when the arm had moved, the image being the same

    def put(self, stamp_ns: int, message: bytes, begins: int, joints: Float | None) -> None:
        """Note an image; from ``begins`` on ``message`` is what a repetition has in common with it.

        ``joints`` (J,) in rad are those of now.
        """
        if self._count and stamp_ns >= self._first_ns and _equal(message, self._message, begins):
            self._count += 1
            if self._joints is None:
                self._joints = joints
            if self._moved_ns is None and _distance(joints, self._joints) >= MOVED_RAD:
                self._moved_ns = stamp_ns
            return
        self._message, self._first_ns, self._count, self._joints = message, stamp_ns, 1, joints
        self._moved_ns = None

    def why_not(self, stamp_ns: int, joints: Float, limit_s: float) -> str:
        """Return why the image stamped ``stamp_ns`` cannot be believed, or an empty string.

        It cannot if it has been the same for ``limit_s`` since a joint had moved by ``MOVED_RAD``.
        """
        if self._moved_ns is None or (stamp_ns - self._moved_ns) * NS < limit_s:
            return ""
        moved, same_s = _distance(joints, self._joints), (stamp_ns - self._first_ns) * NS
        return (
            f"the same image {self._count} times in {same_s:.1f} s while the arm moved by {moved:.2f} rad: "
            "the camera or its driver hangs; restart it (parameter frozen_image_s)"
        )


def _distance(one: Float | None, other: Float | None) -> float:
    return 0.0 if one is None or other is None else float(np.max(np.abs(one - other)))


def _equal(one: bytes, other: bytes, begins: int) -> bool:
    if len(one) != len(other):
        return False
    at = max(begins, len(one) // 2 - _SAMPLE // 2)
    return one[at : at + _SAMPLE] == other[at : at + _SAMPLE] and one[begins:] == other[begins:]
