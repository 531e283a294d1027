"""Executing chunks: which step is under way, where it leads, and when there is nothing left to do.

The steps of an accepted chunk wait in a ``StepSchedule``. Each one becomes a target that the ``Targets``
keep within limits and follow as fast as the ``MotionLimiter`` allows. A motion that could not end well
(``MotionChecks``) is not begun. Whether a chunk may be executed at all has been decided before.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from openvla_ros.profile import RobotProfile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.modes.gripper import GripperSwitch
from openvla_ros.robot.modes.progress import Progress
from openvla_ros.robot.modes.step_queue import StepSchedule
from openvla_ros.robot.modes.targets import Targets
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimiter
from openvla_ros.robot.safety.motion import MotionChecks
from openvla_ros.robot.safety.robot_state import RobotState, ToolDrift
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose
from openvla_ros.values.verdict import OK, Reason, SafetyVerdict

# Samples of the stop that are checked for where a motion leads, besides the next tick.
STOP_SAMPLES = 4


class Executing:
    """Carries out the steps of accepted chunks."""

    def __init__(
        self,
        profile: RobotProfile,
        chain: KinematicChain,
        limiter: MotionLimiter,
        targets: Targets,
        checks: MotionChecks,
        gripper: GripperSwitch,
        count: Callable[[SafetyVerdict], None],
    ) -> None:
        """``gripper`` is asked for the opening of each step; ``count`` is told of every limited step."""
        self._control, self._space = profile.control, profile.space()
        self._limiter, self._targets, self._motion_checks = limiter, targets, checks
        self._gripper, self._count = gripper, count
        self._schedule = StepSchedule(profile.control, self._space.step_s)
        self._drift = ToolDrift(profile.control, chain)
        self._anchored = False  # whether targets compose on the commanded one, not on the measured pose
        self._accepted_ns: int | None = None
        self._fed_ns = 0  # when a step was last under way
        self.observation_ns: int | None = None  # of the chunk that the step being executed is from

    @property
    def anchored(self) -> bool:
        """Whether the next step composes on the commanded target; otherwise ``anchor`` comes first."""
        return self._anchored

    @property
    def target(self) -> Pose | None:
        """The target that the tool is on its way to, or None before there is one."""
        return self._targets.tool if self._anchored else None

    @property
    def settled(self) -> bool:
        """Whether no step is left and the smoothed path stands still on its target."""
        return not len(self._schedule) and (not self._anchored or self._targets.path.settled)

    # Between periods

    def anchor(self, motion: JointMotion | None, robot: RobotState | None) -> JointMotion:
        """Compose from the measured pose; the commanded joints go on from where they are.

        Returns the commanded motion, which begins at rest where the arm is if there is no ``motion``.
        """
        assert robot is not None
        begun = JointMotion.at_rest(robot.positions) if motion is None else motion
        self._targets.anchor(begun.position, robot.positions)
        self._anchored = True
        return begun

    def judge(self, values: Float, stamp_ns: int, robot: RobotState | None, moving: bool) -> SafetyVerdict:
        """Return OK, or the hold that says why ``take`` must not be given ``values`` (T, D)."""
        assert robot is not None
        remaining_s = self._targets.path.remaining_s
        past = self._schedule.past(len(values), stamp_ns, remaining_s) if moving else 0
        return self._targets.judge(values[past:], None if self._anchored else robot.positions)

    def take(self, values: Float, stamp_ns: int, now_ns: int, moving: bool) -> int:
        """Queue the steps ``values`` (T, D) of an observation at ``stamp_ns``; returns how many are past.

        ``moving`` says whether earlier chunks are being executed.
        """
        remaining_s = self._targets.path.remaining_s
        skipped = self._schedule.take(values, stamp_ns, now_ns, remaining_s, moving)
        self._accepted_ns = self._fed_ns = now_ns
        return skipped

    def note(self, now_ns: int, moved_s: float) -> None:
        """Remember that by ``now_ns`` steps were under way for ``moved_s`` more seconds; in every mode."""
        self._schedule.note(now_ns, moved_s)

    def end(self, keep_target: bool) -> None:
        """Drop the steps that are left; the next target composes on the measured pose unless kept."""
        self._schedule.clear()
        self.observation_ns = None
        self._anchored = self._anchored and keep_target

    def forget_time(self) -> None:
        """Forget every stamp: the clock went back."""
        self._accepted_ns = None
        self._schedule.forget_time()

    # One period

    def advance(
        self,
        motion: JointMotion | None,
        robot: RobotState | None,
        by_hand: bool,
        now_ns: int,
        elapsed_s: float,
    ) -> Progress:
        """Advance by one period of ``elapsed_s`` from the commanded ``motion``.

        ``by_hand`` says that a person's hand sends the chunks: without a chunk in time it has let go.
        """
        if by_hand and self._has_let_go(now_ns):
            return Progress.interrupted(SafetyVerdict.hold(Reason.DEAD_MAN, "no chunk from the operator"))
        assert motion is not None
        path, verdict = self._targets.path, None
        if path.step_done and len(self._schedule):
            verdict = self._begin_step(motion, robot)
            if not verdict.commands:
                return Progress.interrupted(verdict)
        elif path.step_done:
            over = self._over(motion, now_ns)
            if over is not None:
                return over
        moved_s = 0.0 if path.step_done else self._limiter.period_s * path.pace
        if moved_s > 0.0:
            self._fed_ns = now_ns
        following = self._follow(motion, elapsed_s)
        if isinstance(following, SafetyVerdict):
            return Progress.interrupted(following, moved_s)
        return Progress(following, verdict, moved_s=moved_s)

    def _has_let_go(self, now_ns: int) -> bool:
        if self._accepted_ns is None:
            return False
        return (now_ns - self._accepted_ns) * 1e-9 > self._control.dead_man_s

    def _begin_step(self, motion: JointMotion, robot: RobotState | None) -> SafetyVerdict:
        """Begin the next step of the queue; returns how it was limited, or OK. A hold: it was not begun."""
        action = self._schedule.next()
        assert action is not None
        assert robot is not None
        self.observation_ns = self._schedule.stamp_ns
        measured, verdict = None, self._drift.check(motion.position, robot.positions) or OK
        if verdict.reason is Reason.TRACKING:
            measured = robot.positions
            self._count(verdict)
        limited = self._targets.begin(action, self._schedule.step_s, measured)
        if not limited.commands:
            return limited
        if limited.reason is not Reason.OK:
            verdict = limited
            self._count(limited)
        self._gripper.ask(self._space.opening(float(action[-1])))
        return verdict

    def _over(self, motion: JointMotion, now_ns: int) -> Progress | None:
        """Return the end if the move is done (blocking) or no chunk came in time (streaming), or None."""
        if self._control.mode == "blocking":
            if self._targets.path.settled and motion.is_at_rest:
                return Progress(None, SafetyVerdict.hold(Reason.WAITING, "the move is done"), "done")
            return None
        starved_s, limit_s = (now_ns - self._fed_ns) * 1e-9, self._control.hold_after_s
        if starved_s <= limit_s:
            return None
        text = f"no chunk for {starved_s:.2f} s; the limit is {limit_s} s"
        return Progress.interrupted(SafetyVerdict.hold(Reason.STARVED, text))

    def _follow(self, motion: JointMotion, elapsed_s: float) -> JointMotion | SafetyVerdict:
        """Return the motion one period later, or the hold that says why it is not to be made."""
        reference = self._targets.advance(motion)
        if isinstance(reference, SafetyVerdict):
            return reference
        following = self._limiter.follow(motion, reference, elapsed_s)
        stop = self._limiter.stop_samples(following, STOP_SAMPLES)
        verdict = self._motion_checks.check(motion.position, np.concatenate([following.position[None], stop]))
        return following if verdict.commands else verdict
