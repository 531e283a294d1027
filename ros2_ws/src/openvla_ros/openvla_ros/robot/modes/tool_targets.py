"""Actions whose targets are tool poses: composed, limited, and followed by the inverse kinematics."""

from __future__ import annotations

from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.kinematics.action_targets import ToolActions
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.motion.blended_line import BlendedLine
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimits
from openvla_ros.robot.motion.tool_follower import ToolFollower
from openvla_ros.robot.safety.motion import TargetLimits
from openvla_ros.robot.safety.target_steps import TargetSteps
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose
from openvla_ros.values.verdict import OK, Reason, SafetyVerdict


class ToolTargets:
    """The tool pose that the arm is on its way to; one beyond the workspace or the tilt limit is clipped."""

    def __init__(
        self,
        profile: RobotProfile,
        chain: KinematicChain,
        motion_limits: MotionLimits,
        limits: TargetLimits,
        actions: ToolActions,
    ) -> None:
        self._chain, self._limits, self._actions = chain, limits, actions
        self._steps = TargetSteps(profile)
        self._follower = ToolFollower(profile, chain, motion_limits)

    @property
    def path(self) -> BlendedLine:
        """The smoothed path of the tool."""
        return self._follower.path

    @property
    def tool(self) -> Pose:
        """The target."""
        return self._follower.path.target

    def anchor(self, commanded: Float, measured: Float) -> None:
        """Start with the joints at ``commanded`` (J,) and the target where ``measured`` (J,) put the tool."""
        self._follower.anchor(commanded, self._chain.forward(measured))

    def judge(self, actions: Float, measured: Float | None) -> SafetyVerdict:
        """Return OK, or why ``actions`` (T, D) must not follow: their targets are too far apart."""
        if not self._steps.limited:
            return OK
        before = self._before(measured)
        for action in actions:
            limited = self._limited(before, action)
            if isinstance(limited, SafetyVerdict):
                return limited
            before, _ = limited
        return OK

    def begin(self, action: Float, duration_s: float, measured: Float | None) -> SafetyVerdict:
        """Begin the step to the target of ``action``; returns how it was limited, or OK."""
        limited = self._limited(self._before(measured), action)
        if isinstance(limited, SafetyVerdict):
            return limited
        target, verdict = limited
        self._follower.path.begin(target, duration_s)
        return verdict

    def advance(self, motion: JointMotion) -> JointMotion | SafetyVerdict:
        """Return the joint reference of the next tick, or the hold if the target cannot be reached."""
        return self._follower.advance(motion)

    def _before(self, measured: Float | None) -> Pose:
        return self.tool if measured is None else self._chain.forward(measured)

    def _limited(self, before: Pose, action: Float) -> tuple[Pose, SafetyVerdict] | SafetyVerdict:
        """Return the target of ``action`` within the limits and what was clipped, or why it is refused."""
        try:
            target = self._actions.after(before, action)
        except InvalidValueError as error:
            return SafetyVerdict.hold(Reason.SPACE, str(error))
        too_far = self._steps.check_tool(before, target)  # as it was stated, not as it is clipped
        return too_far or self._limits.limit(target, before)
