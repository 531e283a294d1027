"""What ``Executing`` does with an action: it becomes a target, which is checked and then followed.

The two implementations differ in what a target is: ``ToolTargets`` and ``JointTargets``.
"""

from __future__ import annotations

from typing import Protocol

from openvla_ros.profile import RobotProfile
from openvla_ros.robot.kinematics.action_targets import joint_actions, tool_actions
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.modes.joint_targets import JointTargets
from openvla_ros.robot.modes.tool_targets import ToolTargets
from openvla_ros.robot.motion.blended_line import BlendedLine
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimits
from openvla_ros.robot.safety.motion import TargetLimits
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose
from openvla_ros.values.verdict import SafetyVerdict


class Targets(Protocol):
    """The target that the arm is on its way to, and the way there."""

    @property
    def path(self) -> BlendedLine:
        """The smoothed path to the target."""
        ...

    @property
    def tool(self) -> Pose:
        """The target as a tool pose in the base frame."""
        ...

    def anchor(self, commanded: Float, measured: Float) -> None:
        """Start with the joints at ``commanded`` (J,) and the target where the ``measured`` ones (J,) are."""
        ...

    def judge(self, actions: Float, measured: Float | None) -> SafetyVerdict:
        """Return OK, or the hold that says why ``actions`` (T, D) must not follow the target in turn.

        ``measured`` (J,) are the joints that they start from instead, if not None. Changes nothing.
        """
        ...

    def begin(self, action: Float, duration_s: float, measured: Float | None) -> SafetyVerdict:
        """Begin the step to the target of ``action`` (D,); returns how it was limited, or OK.

        A hold says why it was not begun. ``measured`` as in ``judge``.
        """
        ...

    def advance(self, motion: JointMotion) -> JointMotion | SafetyVerdict:
        """Return the joint reference of the next tick for joints in ``motion``, or why there is none."""
        ...


def targets_for(
    profile: RobotProfile, chain: KinematicChain, motion_limits: MotionLimits, tool_limits: TargetLimits
) -> Targets:
    """Return the targets of the actions of ``profile``."""
    space = profile.space()
    tool = tool_actions(space)
    if tool is not None:
        return ToolTargets(profile, chain, motion_limits, tool_limits, tool)
    return JointTargets(profile, chain, motion_limits, tool_limits, joint_actions(space))
