"""Commanded tool targets to joint references: the smoothed path, and one inverse step per tick."""

from __future__ import annotations

import numpy as np

from openvla_ros.profile import RobotProfile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.inverse_kinematics import InverseKinematics
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimits
from openvla_ros.robot.motion.tool_path import ToolPath
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose
from openvla_ros.values.verdict import Reason, SafetyVerdict

# The inverse step plans with this share of the velocity limits; the rest is for catching up.
PLANNED_SHARE = 0.9
# The joint reference may run ahead of the commanded joints by this much before it waits, radians.
LEAD_RAD = 0.3


class ToolFollower:
    """Computes joint references so that the tool follows its commanded targets."""

    def __init__(self, profile: RobotProfile, chain: KinematicChain, limits: MotionLimits) -> None:
        control = profile.control
        self._period_s = 1.0 / control.rate_hz
        self._chain = chain
        self._inverse = InverseKinematics(
            chain, limits.lower, limits.upper, PLANNED_SHARE * limits.velocity, profile.arm.neutral
        )
        self._acceleration = limits.acceleration
        self._leash_m, self._leash_rad = control.leash_m, control.reanchor_error_rad
        self._reference = JointMotion.at_rest(np.zeros(len(chain.joints)))
        self.path = ToolPath(self._period_s, control.blend_s)

    def anchor(self, commanded: Float, measured_tool: Pose) -> None:
        """Start with the joints at ``commanded`` (J,) and the tool target at ``measured_tool``."""
        self._reference = JointMotion.at_rest(commanded)
        self.path.reset(self._chain.forward(commanded))
        self.path.jump(measured_tool)

    def advance(self, motion: JointMotion) -> JointMotion | SafetyVerdict:
        """Return the reference for the next tick, or a hold if the target cannot be reached.

        ``motion`` is the commanded joints' state: the reference waits for them if it is far ahead.
        """
        reference = self._reference
        if np.abs(reference.position - motion.position).max() > LEAD_RAD:
            self._reference = JointMotion.at_rest(reference.position)
            return self._reference
        step = self._inverse.step(reference.position, self.path.advance(), self._period_s)
        if step.position_error_m > self._leash_m or step.rotation_error_rad > self._leash_rad:
            return SafetyVerdict.hold(
                Reason.INVERSE_KINEMATICS,
                f"the target is {step.position_error_m:.3f} m and {step.rotation_error_rad:.3f} rad "
                f"out of reach; the limits are {self._leash_m} m and {self._leash_rad} rad",
            )
        velocity = (step.q - reference.position) / self._period_s
        change = (velocity - reference.velocity) / self._period_s
        acceleration = np.minimum(np.maximum(change, -self._acceleration), self._acceleration)
        self._reference = JointMotion(step.q, velocity, acceleration)
        return self._reference
