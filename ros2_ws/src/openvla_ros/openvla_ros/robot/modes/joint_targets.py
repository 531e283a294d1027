"""Actions whose targets are joint positions: composed, checked, and followed joint by joint."""

from __future__ import annotations

from openvla_ros.profile import RobotProfile
from openvla_ros.robot.kinematics.action_targets import JointActions
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.motion.blended_line import BlendedLine
from openvla_ros.robot.motion.joint_follower import JointFollower
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimits
from openvla_ros.robot.safety.joint_target_limits import JointTargetLimits
from openvla_ros.robot.safety.motion import TargetLimits
from openvla_ros.robot.safety.target_steps import TargetSteps
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose
from openvla_ros.values.verdict import OK, SafetyVerdict


class JointTargets:
    """The joint positions that the arm is on its way to; a target beyond a limit is refused."""

    def __init__(
        self,
        profile: RobotProfile,
        chain: KinematicChain,
        motion_limits: MotionLimits,
        tool_limits: TargetLimits,
        actions: JointActions,
    ) -> None:
        self._chain, self._actions = chain, actions
        self._steps = TargetSteps(profile)
        self._limits = JointTargetLimits(profile, chain, tool_limits)
        self._follower = JointFollower(profile, motion_limits)
        self._tool: tuple[Float, Pose] | None = None  # a target, and the tool there

    @property
    def path(self) -> BlendedLine:
        """The smoothed path of the joints."""
        return self._follower.path

    @property
    def tool(self) -> Pose:
        """Where the target puts the tool; computed once for each target, for this is asked at every tick."""
        target = self._follower.path.target
        if self._tool is None or self._tool[0] is not target:
            self._tool = target, self._chain.forward(target)
        return self._tool[1]

    def anchor(self, commanded: Float, measured: Float) -> None:
        """Start with the joints at ``commanded`` (J,) and the target at ``measured`` (J,)."""
        self._follower.anchor(commanded, measured)

    def judge(self, actions: Float, measured: Float | None) -> SafetyVerdict:
        """Return OK, or why ``actions`` (T, D) must not follow: a target is too far or not allowed."""
        before = self._before(measured)
        for action in actions:
            target = self._actions.after(before, action)
            refused = self._refused(before, target)
            if refused is not None:
                return refused
            before = target
        return OK

    def begin(self, action: Float, duration_s: float, measured: Float | None) -> SafetyVerdict:
        """Begin the step to the target of ``action``; returns OK, or why it was not begun."""
        before = self._before(measured)
        target = self._actions.after(before, action)
        refused = self._refused(before, target)
        if refused is not None:
            return refused
        self._follower.begin(target, duration_s)
        return OK

    def advance(self, motion: JointMotion) -> JointMotion | SafetyVerdict:
        """Return the joint reference of the next tick."""
        return self._follower.advance(motion)

    def _before(self, measured: Float | None) -> Float:
        return self._follower.path.target if measured is None else measured

    def _refused(self, before: Float, target: Float) -> SafetyVerdict | None:
        return self._steps.check_joints(before, target) or self._limits.check(target, before)
