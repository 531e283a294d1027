"""How far a target may be from the one before it: an action that states a target must be no jump.

Changes are held to the bounds of the action space instead. The limits are ``action_space.largest_step_m`` and
``largest_step_rad`` of the profile.
"""

from __future__ import annotations

import numpy as np

from openvla_ros.profile import RobotProfile
from openvla_ros.robot.kinematics.inverse_kinematics import rotation_error
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose
from openvla_ros.values.verdict import Reason, SafetyVerdict

ROUNDING = 1e-9


class TargetSteps:
    """The longest step between two targets; without limits in the profile any step is allowed."""

    def __init__(self, profile: RobotProfile) -> None:
        actions = profile.action_space
        self._joints = profile.arm.joints
        self.limited = profile.space().is_absolute
        self._most_m = actions.largest_step_m or np.inf
        self._most_rad = actions.largest_step_rad or np.inf

    def check_tool(self, before: Pose, after: Pose) -> SafetyVerdict | None:
        """Return None, or the hold that says how far tool pose ``after`` is from ``before``."""
        if not self.limited:
            return None
        far_m = float(np.linalg.norm(after.position - before.position))
        far_rad = float(np.linalg.norm(rotation_error(after.rotation, before.rotation)))
        if far_m <= self._most_m + ROUNDING and far_rad <= self._most_rad + ROUNDING:
            return None
        return SafetyVerdict.hold(
            Reason.STEP_BOUNDS,
            f"the target is {far_m:.4f} m and {far_rad:.3f} rad from the one before; the limits are "
            f"{self._most_m:g} m and {self._most_rad:g} rad",
        )

    def check_joints(self, before: Float, after: Float) -> SafetyVerdict | None:
        """Return None, or the hold that says how far joints ``after`` (J,) are from ``before``."""
        if not self.limited:
            return None
        far = np.abs(after - before)
        i = int(np.argmax(far))
        if far[i] <= self._most_rad + ROUNDING:
            return None
        return SafetyVerdict.hold(
            Reason.STEP_BOUNDS,
            f"the target of {self._joints[i]} is {far[i]:.3f} from the one before; the limit is "
            f"{self._most_rad:g} (rad, or m for a slide)",
        )
