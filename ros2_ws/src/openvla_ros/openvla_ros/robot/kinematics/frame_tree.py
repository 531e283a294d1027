"""A tree of named frames, as published on tf. Knows no messages."""

from __future__ import annotations

from openvla_ros.values.geometry import Pose


class FrameTree:
    """The newest pose of each frame in its parent frame."""

    def __init__(self) -> None:
        self._parents: dict[str, tuple[str, Pose]] = {}
        self._names: dict[str, None] = {}  # in the order in which they were added

    @property
    def names(self) -> tuple[str, ...]:
        """All known frames."""
        return tuple(self._names)

    def put(self, parent: str, child: str, pose: Pose) -> None:
        """Set the pose of ``child`` in ``parent``."""
        self._names |= dict.fromkeys((parent, child))
        self._parents[child] = parent, pose

    def pose(self, base: str, frame: str) -> Pose | None:
        """Return the pose of ``frame`` in ``base``, or None if nothing connects them."""
        to_base, to_frame = self._from_root(base), self._from_root(frame)
        if to_base is None or to_frame is None or to_base[0] != to_frame[0]:
            return None
        return to_base[1].inverse() @ to_frame[1]

    def _from_root(self, frame: str) -> tuple[str, Pose] | None:
        """Return the root above ``frame``, and the frame's pose in it; None if it is unknown or in a loop."""
        if frame not in self._names:
            return None
        pose = Pose.identity()
        for _ in self._names:
            if frame not in self._parents:
                return frame, pose
            frame, step = self._parents[frame]
            pose = step @ pose
        return None
