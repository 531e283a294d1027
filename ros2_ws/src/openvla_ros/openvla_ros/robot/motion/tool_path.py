"""The rate bridge: turns steps at 3 to 15 Hz into a smooth tool path at the control rate.

Straight lines between the commanded poses, the rotation along the shortest arc, averaged as in
``BlendedLine``. Knows nothing of chunks, clocks or limits: the controller decides when which step begins.
"""

from __future__ import annotations

import numpy as np

from openvla_ros.robot.motion.blended_line import BlendedLine
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose, transform_matrix_to_quaternion, transform_quaternion_to_matrix

_IDENTITY: Float = np.eye(4)


class ToolPath(BlendedLine):
    """The smoothed path of the tool point, one sample a tick."""

    def __init__(self, period_s: float, blend_s: float) -> None:
        super().__init__(period_s, blend_s)
        count = len(self._weights)
        self._positions = np.zeros((count, 3))  # the line's last samples, in a ring
        self._quaternions = np.tile([0.0, 0.0, 0.0, 1.0], (count, 1))
        self._from = self._to = Pose.identity()
        ahead: Float = self._quaternions[0].copy()
        self._from_q = self._to_q = ahead
        self._measure_arc()

    def reset(self, pose: Pose) -> None:
        """Reset the path to rest at ``pose``."""
        self.jump(pose)
        self._positions[:] = pose.position
        self._quaternions[:] = self._to_q
        self._rest(settled=True)

    def jump(self, target: Pose) -> None:
        """Jump the line to ``target``; the window turns the jump into a smooth motion."""
        self._from = self._to = target
        self._from_q = self._to_q = transform_matrix_to_quaternion(target.rotation)
        self._measure_arc()
        self._rest(settled=False)

    def begin(self, target: Pose, duration_s: float) -> None:
        """Start the step to ``target``; time left over from the previous step counts toward it."""
        self._from, self._from_q = self._to, self._to_q
        self._to, self._to_q = target, transform_matrix_to_quaternion(target.rotation)
        if self._to_q @ self._from_q < 0.0:
            self._to_q = -self._to_q
        self._measure_arc()
        self._begin(duration_s)

    @property
    def target(self) -> Pose:
        """The end of the line: where the step in progress leads."""
        return self._to

    def advance(self) -> Float:
        """Return the tool pose (4, 4) at the next tick."""
        share = self._pass()
        self._positions[self._newest] = self._from.position + share * (
            self._to.position - self._from.position
        )
        quaternion = self._line_quaternion(share)
        # One sign for all samples, or their mean would pass through zero.
        if quaternion @ self._quaternions[self._newest - 1] < 0.0:
            quaternion = -quaternion
        self._quaternions[self._newest] = quaternion
        weights = self._window()
        pose = _IDENTITY.copy()
        pose[:3, 3] = weights @ self._positions
        pose[:3, :3] = transform_quaternion_to_matrix(weights @ self._quaternions)
        return pose

    def _measure_arc(self) -> None:
        """Measure the turn of the line: half of it is the angle between the two quaternions."""
        self._angle = float(np.arccos(min(1.0, float(self._from_q @ self._to_q))))
        self._sine = float(np.sin(self._angle))

    def _line_quaternion(self, share: float) -> Float:
        angle = self._angle
        if angle < 1e-6:
            return self._to_q
        start, end = np.sin((1.0 - share) * angle), np.sin(share * angle)
        between: Float = (start * self._from_q + end * self._to_q) / self._sine
        return between
