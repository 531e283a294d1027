"""Which mode moves the arm in a control period, its motion so far, and the verdict in force.

One of ``Executing`` (chunks), ``Homing`` (named poses), ``Stopping`` (everything else) and ``Overrun``
(nothing is commanded after a stall). Who may ask for what is decided before, in ``ArmController``.
"""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType

from openvla_ros.profile import RobotProfile
from openvla_ros.robot.authority import PERSON, Authority
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.modes.executing import Executing
from openvla_ros.robot.modes.gripper import GripperSwitch
from openvla_ros.robot.modes.homing import Homing
from openvla_ros.robot.modes.overrun import UNSEEN, Overrun
from openvla_ros.robot.modes.progress import Progress
from openvla_ros.robot.modes.stopping import Stopping
from openvla_ros.robot.modes.targets import targets_for
from openvla_ros.robot.modes.way_planner import NamedPose, WayPlanner
from openvla_ros.robot.motion.command_clock import CommandClock, Tick
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimiter, MotionLimits
from openvla_ros.robot.output import ControllerOutput, ControllerState
from openvla_ros.robot.safety.motion import MotionChecks, TargetLimits
from openvla_ros.robot.safety.observation_order import ObservationOrder
from openvla_ros.robot.safety.robot_watch import RobotWatch
from openvla_ros.values.arrays import Float, read_only
from openvla_ros.values.verdict import Reason, SafetyVerdict

NOTHING_ASKED = SafetyVerdict.hold(Reason.WAITING, "nothing has been asked for")
# What a stop interrupts.
UNDER_WAY = (ControllerState.EXECUTING, ControllerState.HOMING)


class ModeSwitch:
    """The modes of one arm, of which ``state`` names the one that moves it."""

    def __init__(
        self,
        profile: RobotProfile,
        chain: KinematicChain,
        authority: Authority,
        order: ObservationOrder,
        watch: RobotWatch,
    ) -> None:
        self._chain, self._authority, self._order, self._watch = chain, authority, order, watch
        period_s = 1.0 / profile.control.rate_hz
        self._clock = CommandClock(period_s, max(profile.arm_backend.patience_s, period_s))
        self._gripper = GripperSwitch(profile.gripper)

        limits = MotionLimits.from_profile(profile.limits)
        limiter = MotionLimiter(limits, period_s, profile.control.blend_s)
        tool_limits = TargetLimits(profile)
        checks = MotionChecks(profile, chain, tool_limits)
        targets = targets_for(profile, chain, limits, tool_limits)
        self.blind_spots = checks.blind_spots  # link → why its collisions are not, or not fully, checked
        self._executing = Executing(profile, chain, limiter, targets, checks, self._gripper, self.count)
        self._homing = Homing(WayPlanner(profile, limits, checks))
        self._stopping = Stopping(limiter)
        self.overrun = Overrun(profile, limiter)

        self.state = ControllerState.IDLE  # which mode moves the arm: the others stop it
        self.verdict = NOTHING_ASKED
        self.now_ns: int | None = None  # of the last tick
        self._motion: JointMotion | None = None  # None until something was asked for
        self._counters: Counter[Reason] = Counter()

    # What is asked for

    @property
    def is_fresh(self) -> bool:
        """Whether nothing has moved the arm yet, nor a person stopped it."""
        return self.state is ControllerState.IDLE and self._motion is None

    def judge(self, actions: Float, stamp_ns: int) -> SafetyVerdict:
        """Return OK, or the hold that says why ``actions`` (T, D) must not be executed; changes nothing."""
        moving = self.state is ControllerState.EXECUTING
        return self._executing.judge(actions, stamp_ns, self._watch.robot, moving)

    def execute(self, actions: Float, stamp_ns: int, now_ns: int) -> int:
        """Execute ``actions`` (T, D) from an observation of ``stamp_ns``; returns how many are past."""
        if self._motion is None or not self._executing.anchored:
            self._motion = self._executing.anchor(self._motion, self._watch.robot)
        moving = self.state is ControllerState.EXECUTING
        skipped = self._executing.take(actions, stamp_ns, now_ns, moving)
        self.state = ControllerState.EXECUTING
        return skipped

    def go_to(self, name: NamedPose, measured: Float) -> SafetyVerdict:
        """Come to rest and go to a named pose; an arm that was not moved yet starts at ``measured`` (J,)."""
        on_the_way = SafetyVerdict.command(detail=f"on the way to {name}")
        self.rest(on_the_way)
        if self._motion is None:
            self._motion = JointMotion.at_rest(measured)
        self._homing.begin(name)
        self.state, self.verdict = ControllerState.HOMING, on_the_way
        return on_the_way

    def interrupt(self, verdict: SafetyVerdict) -> None:
        """Stop what is being executed, for the reason of ``verdict``."""
        self.count(verdict)
        self.rest(verdict)

    def rest(self, verdict: SafetyVerdict, keep_target: bool = False) -> None:
        """Execute nothing from now on; the next target composes on the measured pose unless kept."""
        self._executing.end(keep_target)
        latched, fault = self._authority.latched, self._watch.fault
        self.verdict = latched or fault or verdict
        if latched is not None:
            stopped = {Reason.E_STOP: ControllerState.E_STOP, Reason.SHUT_DOWN: ControllerState.STOPPED}
            self.state = stopped.get(latched.reason, ControllerState.HOLDING)
        elif fault is not None:
            self.state = ControllerState.STOPPED
        else:
            self.state = ControllerState.IDLE if self._motion is None else ControllerState.HOLDING

    def count(self, verdict: SafetyVerdict) -> None:
        """Count an event by its reason."""
        self._counters[verdict.reason] += 1

    # One control period

    def tick(self, now_ns: int, stall: str) -> None:
        """Advance the motion by one control period if one has passed; ``stall``: why this call is late."""
        self.now_ns = now_ns
        last_ns = self._clock.stamp_ns
        tick = self._clock.tick(now_ns)
        if tick is Tick.BACK:
            self._forget_time()
        elif tick is not Tick.EARLY:
            if tick is Tick.OVERRUN:
                self._begin_overrun(last_ns, stall)
            moved_s = 0.0
            if self.overrun.lasts:
                self._end_overrun(now_ns)
            else:
                moved_s = self._advance(now_ns)
            self._executing.note(now_ns, moved_s)

    def _advance(self, now_ns: int) -> float:
        """Let the mode move the arm by one period; returns for how long a step was under way, seconds."""
        self._heed_faults(now_ns)
        elapsed_s = self._clock.elapsed_s
        match self.state:
            case ControllerState.EXECUTING:
                by_hand = self._authority.owner == PERSON
                progress = self._executing.advance(
                    self._motion, self._watch.robot, by_hand, now_ns, elapsed_s
                )
            case ControllerState.HOMING:
                progress = self._homing.advance(self._motion, elapsed_s)
            case _:
                progress = Progress(None)
        self._take_verdict(progress, now_ns)
        if progress.motion is None:
            self._stop()
        else:
            self._motion = progress.motion
        return progress.moved_s

    def _take_verdict(self, progress: Progress, now_ns: int) -> None:
        """Put the verdict of ``progress`` in force, and end the mode if it is over."""
        if progress.verdict is None:
            return
        match progress.end:
            case "done":
                self._order.look_after(now_ns)
                if self.state is ControllerState.HOMING:
                    arrived = f"{progress.verdict.detail}; give the arm to an owner to go on"
                    self._authority.latch(Reason.HELD, arrived)
                self.rest(progress.verdict, keep_target=True)
            case "interrupted":
                self.interrupt(progress.verdict)
            case None:
                self.verdict = progress.verdict

    def _stop(self) -> None:
        """Go on along the stop; where nothing may be commanded the arm is let go once it rests."""
        if self._motion is None:
            return
        self._motion = self._stopping.advance(
            self._motion,
            self._watch,
            self._clock.elapsed_s,
            latched=self._authority.latched is not None,
            barred=self._authority.barred is not None,
        )
        if self._motion is None:
            self._gripper.forget()

    def _heed_faults(self, now_ns: int) -> None:
        """Stop while the robot's own reports forbid motion; hold when that is over."""
        before = self._watch.fault
        if self._motion is None and before is None:
            return
        # An arm that was let go has nothing to follow, but a fault from before must be seen to end.
        commanded = None if self._motion is None else self._motion.position
        fault = self._watch.look(commanded, now_ns)
        if fault is None:
            if before is not None:
                self.rest(SafetyVerdict.hold(Reason.WAITING, f"over: {before.detail}"))
        elif before is None or before.reason is not fault.reason or self.state in UNDER_WAY:
            self.interrupt(fault)

    # Time that is missing

    def _forget_time(self) -> None:
        """The clock went back (a simulation was reset): nothing from before it means anything now."""
        for part in (self._watch, self._order, self._executing):
            part.forget_time()
        if self.overrun.lasts:
            self.overrun.forget()
            self._motion = None
        if self.state in UNDER_WAY:
            self.interrupt(SafetyVerdict.hold(Reason.TIMING, "the clock went back"))

    def _begin_overrun(self, last_ns: int, stall: str) -> None:
        """The loop stalled since the command of ``last_ns``; the robot's side continued without it."""
        if self._motion is None or self.overrun.lasts:
            return
        self._homing.forget_way()
        verdict = self.overrun.begin(self._motion, last_ns, self._clock.elapsed_s, stall)
        if verdict.commands:
            self.count(verdict)
        else:
            self._hold_overrun(verdict)

    def _end_overrun(self, now_ns: int) -> None:
        """Go on from where the arm is, once it has been seen; nothing is commanded before."""
        motion = self.overrun.resume(self._watch.robot, now_ns, self._clock.stamp_ns)
        if motion is not None:
            self._motion = motion
        elif self.state in UNDER_WAY:
            self._hold_overrun(UNSEEN)

    def _hold_overrun(self, verdict: SafetyVerdict) -> None:
        """Drop what was being executed; an observation from before shows neither the arm nor its task now."""
        self._order.look_after(self.now_ns)
        if self.state in UNDER_WAY:
            self.interrupt(verdict)
        else:
            self.count(verdict)

    def output(self) -> ControllerOutput:
        """Return what to command now."""
        motion = None if self.overrun.lasts else self._motion
        at_rest = motion is None or motion.is_at_rest
        return ControllerOutput(
            stamp_ns=self._clock.stamp_ns,
            state=self.state,
            owner=self._authority.owner,
            verdict=self.verdict,
            joint_positions=None if motion is None else read_only(motion.position),
            joint_velocities=None if motion is None else read_only(motion.velocity),
            joint_accelerations=None if motion is None else read_only(motion.acceleration),
            gripper_opening=self._gripper.opening,
            target=self._executing.target,
            at_rest=at_rest,
            settled=at_rest and self.state is not ControllerState.HOMING and self._executing.settled,
            observation_ns=self._executing.observation_ns,
            counters=MappingProxyType(dict(self._counters)),
            chain=self._chain,
        )
