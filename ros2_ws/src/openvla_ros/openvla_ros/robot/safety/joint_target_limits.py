"""Checks of commanded joint targets: joint limits, and the workspace and tilt of the tool there.

A tool pose beyond its limits is clipped to them. Joints cannot be clipped without changing where the others
put the tool, so a joint target beyond a limit is refused.
"""

from __future__ import annotations

import numpy as np

from openvla_ros.profile import RobotProfile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.safety.motion import TargetLimits
from openvla_ros.values.arrays import Float
from openvla_ros.values.verdict import Reason, SafetyVerdict

ROUNDING = 1e-9


class JointTargetLimits:
    """Refuses joint targets that are beyond a limit and farther beyond it than the target before."""

    def __init__(self, profile: RobotProfile, chain: KinematicChain, tool: TargetLimits) -> None:
        self._joints, self._chain, self._tool = profile.arm.joints, chain, tool
        self._lower, self._upper = np.array(profile.limits.joint_lower), np.array(profile.limits.joint_upper)

    def check(self, target: Float, previous: Float) -> SafetyVerdict | None:
        """Return None, or the hold that names the limit that ``target`` (J,) exceeds.

        If the ``previous`` target is beyond it (the arm was there at the start), the arm may come back.
        """
        outside = np.maximum(self._lower - target, target - self._upper)
        outside -= np.maximum(0.0, np.maximum(self._lower - previous, previous - self._upper))
        i = int(np.argmax(outside))
        if outside[i] > ROUNDING:
            return SafetyVerdict.hold(
                Reason.JOINT_LIMIT,
                f"the target of {self._joints[i]} is {target[i]:.3f} rad; its limits are "
                f"{self._lower[i]:g} .. {self._upper[i]:g} rad",
            )
        frames = self._chain.frames(np.stack([previous, target]))[:, -1]
        out_m = self._tool.outside_m(frames[:, :3, 3])
        if out_m[1] > max(0.0, out_m[0]) + ROUNDING:
            return SafetyVerdict.hold(
                Reason.WORKSPACE, f"the joint target puts the tool {out_m[1]:.4f} m outside the workspace"
            )
        excess_rad = self._tool.excess_tilt(frames[:, :3, :3])
        if excess_rad[1] > max(0.0, excess_rad[0]) + ROUNDING:
            return SafetyVerdict.hold(
                Reason.TILT, f"the joint target tilts the tool {excess_rad[1]:.3f} rad beyond its limit"
            )
        return None
