"""The controller's core: received chunks in, joint commands at the control rate out.

Sits between the messages (the controller node) and the arm's own software, and ties the parts
together: ``Authority`` (who), ``Admission`` and ``RobotWatch`` (whether), ``CommandClock`` (when), and the
modes, of which one moves the arm in each control period:
``Executing`` (chunks), ``Homing`` (named poses), ``Stopping`` (everything else), and ``Overrun``
(nothing is commanded after a stall). Every time is a stamp in nanoseconds that the caller
passes in: there is no clock here, so recorded, simulated and live time all work.
"""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType

from numpy.typing import ArrayLike

from openvla_ros.profile import RobotProfile
from openvla_ros.robot.admission import Admission
from openvla_ros.robot.authority import PERSON, Authority, Owner
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.modes.executing import Executing
from openvla_ros.robot.modes.gripper import GripperSwitch
from openvla_ros.robot.modes.homing import Homing
from openvla_ros.robot.modes.overrun import UNSEEN, Overrun
from openvla_ros.robot.modes.progress import Progress
from openvla_ros.robot.modes.stopping import Stopping
from openvla_ros.robot.modes.way_planner import NamedPose, WayPlanner, checked_pose
from openvla_ros.robot.motion.command_clock import CommandClock, Tick
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimiter, MotionLimits
from openvla_ros.robot.output import ControllerOutput, ControllerState
from openvla_ros.robot.safety.chunk import ChunkChecks, ReceivedChunk
from openvla_ros.robot.safety.motion import MotionChecks, TargetLimits
from openvla_ros.robot.safety.observation_order import ObservationOrder
from openvla_ros.robot.safety.robot_watch import RobotWatch
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.arrays import read_only
from openvla_ros.values.verdict import OK, Reason, SafetyVerdict

# What a stop interrupts.
UNDER_WAY = (ControllerState.EXECUTING, ControllerState.HOMING)


class ArmController:
    """The pure core of the controller node for one robot profile."""

    def __init__(self, profile: RobotProfile, owner: Owner = "policy") -> None:
        self.profile = profile
        self.chain = KinematicChain.from_profile(profile.arm)
        self.period_s = 1.0 / profile.control.rate_hz
        self._authority = Authority(owner)
        self._chunk_checks = ChunkChecks(profile)
        self._order = ObservationOrder()
        self._watch = RobotWatch(profile)
        self._clock = CommandClock(self.period_s, max(profile.arm_backend.patience_s, self.period_s))
        self._gripper = GripperSwitch(profile.gripper)

        limits = MotionLimits.from_profile(profile.limits)
        limiter = MotionLimiter(limits, self.period_s, profile.control.blend_s)
        targets = TargetLimits(profile)
        checks = MotionChecks(profile, self.chain, targets)
        self.blind_spots = checks.blind_spots  # link → why its collisions are not, or not fully, checked
        self._executing = Executing(profile, self.chain, limiter, targets, checks, self._gripper, self._count)
        self._homing = Homing(WayPlanner(profile, limits, checks))
        self._stopping = Stopping(limiter)
        self._overrun = Overrun(profile, limiter)
        self._admission = Admission(
            profile.control, self._authority, self._chunk_checks, self._order, self._watch, self._overrun
        )

        self._state = ControllerState.IDLE  # which mode moves the arm: the others stop it
        self._verdict = SafetyVerdict.hold(Reason.WAITING, "nothing has been asked for")
        self._motion: JointMotion | None = None  # None until something was asked for
        self._now_ns: int | None = None
        self._counters: Counter[Reason] = Counter()

    # What the robot reports

    def observe(
        self,
        joint_positions: ArrayLike,
        velocities: ArrayLike | None,
        effort: ArrayLike | None,
        stamp_ns: int,
        now_ns: int,
    ) -> SafetyVerdict:
        """Take in a joint state in the profile's joint order; returns why it is not used, or OK."""
        verdict = self._watch.observe(joint_positions, velocities, effort, stamp_ns, now_ns)
        return verdict if verdict.commands else self.refuse(verdict)

    def observe_wrench(
        self, force: ArrayLike, torque: ArrayLike, stamp_ns: int, now_ns: int
    ) -> SafetyVerdict:
        """Take in the external force (3,) N and torque (3,) N m; returns why they are not used, or OK."""
        verdict = self._watch.observe_wrench(force, torque, stamp_ns, now_ns)
        return verdict if verdict.commands else self.refuse(verdict)

    # What is asked of the arm

    def accept(self, chunk: ActionChunk | ReceivedChunk, source: Owner, now_ns: int) -> SafetyVerdict:
        """Queue ``chunk`` for execution, or refuse it; returns which, and why."""
        received = ReceivedChunk.from_chunk(chunk, self.profile) if isinstance(chunk, ActionChunk) else chunk
        verdict = self._admission.judge(received, source, self._state, now_ns)
        if not verdict.commands:
            return self.refuse(verdict)
        if self._motion is None or not self._executing.anchored:
            self._motion = self._executing.anchor(self._motion, self._watch.robot)
        values, limited = self._chunk_checks.limit(received.values)
        moving = self._state is ControllerState.EXECUTING
        skipped = self._executing.take(values, received.stamp_ns, now_ns, moving)
        self._order.used(received.stamp_ns)
        self._state = ControllerState.EXECUTING
        if limited.reason is not Reason.OK:
            self._count(limited)
            return limited
        return SafetyVerdict.command(detail=f"{skipped} steps are past" if skipped else "")

    def e_stop(self, source: str) -> SafetyVerdict:
        """Stop as fast as the limits allow and stay stopped until ``reset_e_stop``."""
        return self._latch(Reason.E_STOP, f"emergency stop by {source}")

    def reset_e_stop(self) -> SafetyVerdict:
        """Clear the emergency stop; the arm stays held until ``give_to`` names who may move it."""
        if not self._authority.reset_e_stop():
            return SafetyVerdict.command(detail="there is no emergency stop to reset")
        self.stand_back(self._authority.rivals)
        self._rest(self._authority.latched or OK)
        return self._verdict

    def hold(self, why: str = "held by the operator; give the arm to an owner to go on") -> SafetyVerdict:
        """Come smoothly to rest and stay there until ``give_to`` or ``go_to``."""
        return self._latch(Reason.HELD, why)

    def refuse(self, verdict: SafetyVerdict) -> SafetyVerdict:
        """Count what was refused, here or before it could be read; returns ``verdict``."""
        self._count(verdict)
        return verdict

    def stand_back(self, rivals: str | None) -> None:
        """Stop and then command nothing while somebody else commands the arm, as ``rivals`` says in words.

        With None they are gone: the arm stays held until ``give_to``, and continues from where it is then.
        """
        self._authority.rivals = rivals
        if rivals is None:
            if self._authority.rival_gone():
                self._rest(self._authority.latched or OK)
        elif self._authority.latch(Reason.RIVAL, rivals):
            self._interrupt(SafetyVerdict.hold(Reason.RIVAL, rivals))

    def give_to(self, owner: Owner) -> SafetyVerdict:
        """Make ``owner`` the only source whose chunks are executed; the arm comes to rest first.

        What was computed from an observation before this moment is refused.
        """
        forbidden = self._authority.give_to(owner)
        if forbidden is not None:
            return self.refuse(forbidden)
        self._order.look_after(self._now_ns)
        self._rest(SafetyVerdict.hold(Reason.WAITING, f"waiting for {owner}"))
        return OK

    def go_to(self, name: NamedPose) -> SafetyVerdict:
        """Start moving along straight lines in joint space to a named pose of the profile.

        It goes by way of home where the direct line would collide. The arm comes to rest first.
        Allowed while the arm is held; it is held again at the end.
        """
        checked_pose(name)
        latched, robot = self._authority.latched, self._watch.robot
        if latched is not None and latched.reason is not Reason.HELD:
            return self.refuse(latched)
        if robot is None or self._now_ns is None:
            return self.refuse(SafetyVerdict.hold(Reason.NO_STATE, "no joint state has been received"))
        verdict = self._watch.check(self._now_ns)
        if not verdict.commands:
            return self.refuse(verdict)
        if self._overrun.lasts:
            return self.refuse(UNSEEN)
        on_the_way = SafetyVerdict.command(detail=f"on the way to {name}")
        self._rest(on_the_way)
        if self._motion is None:
            self._motion = JointMotion.at_rest(robot.positions)
        self._homing.begin(name)
        self._state, self._verdict = ControllerState.HOMING, on_the_way
        return on_the_way

    def shutdown(self) -> ControllerOutput:
        """Begin the last stop; ``tick`` until the output is at rest, then send nothing more."""
        self._latch(Reason.SHUT_DOWN, "the controller is shutting down")
        return self._output()

    # The loop

    def tick(self, now_ns: int, stall: str = "") -> ControllerOutput:
        """Advance the motion by one control period if one has passed, and return what to command.

        ``stall`` says why this call is late, where that is known; it becomes part of the reason ``overrun``.
        """
        self._now_ns = now_ns
        last_ns = self._clock.stamp_ns
        tick = self._clock.tick(now_ns)
        if tick is Tick.BACK:
            self._forget_time()
        elif tick is not Tick.EARLY:
            if tick is Tick.OVERRUN:
                self._begin_overrun(last_ns, stall)
            moved_s = 0.0
            if self._overrun.lasts:
                self._end_overrun(now_ns)
            else:
                moved_s = self._advance(now_ns)
            self._executing.note(now_ns, moved_s)
        return self._output()

    def _advance(self, now_ns: int) -> float:
        """Let the mode move the arm by one period; returns for how long a step was under way, seconds."""
        self._heed_faults(now_ns)
        elapsed_s = self._clock.elapsed_s
        match self._state:
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
                self._rest(progress.verdict, keep_target=True)
            case "interrupted":
                self._interrupt(progress.verdict)
            case None:
                self._verdict = progress.verdict

    def _stop(self) -> None:
        """Go on along the stop; beside a rival the arm is let go once it rests."""
        if self._motion is None:
            return
        self._motion = self._stopping.advance(
            self._motion, self._watch, self._authority.latched, self._clock.elapsed_s
        )
        if self._motion is None:
            self._gripper.forget()

    def _heed_faults(self, now_ns: int) -> None:
        """Stop while the robot's own reports forbid motion; hold when that is over."""
        if self._motion is None:
            return
        before = self._watch.fault
        fault = self._watch.look(self._motion.position, now_ns)
        if fault is None:
            if before is not None:
                self._rest(SafetyVerdict.hold(Reason.WAITING, f"over: {before.detail}"))
        elif before is None or before.reason is not fault.reason:
            self._interrupt(fault)

    def _forget_time(self) -> None:
        """The clock went back (a simulation was reset): nothing from before it means anything now."""
        for part in (self._watch, self._order, self._executing):
            part.forget_time()
        if self._overrun.lasts:
            self._overrun.forget()
            self._motion = None
        if self._state in UNDER_WAY:
            self._interrupt(SafetyVerdict.hold(Reason.TIMING, "the clock went back"))

    def _begin_overrun(self, last_ns: int, stall: str) -> None:
        """The loop stalled since the command of ``last_ns``; the robot's side continued without it."""
        if self._motion is None or self._overrun.lasts:
            return
        self._homing.forget_way()
        verdict = self._overrun.begin(self._motion, last_ns, self._clock.elapsed_s, stall)
        if verdict.commands:
            self._count(verdict)
        else:
            self._hold_overrun(verdict)

    def _end_overrun(self, now_ns: int) -> None:
        """Go on from where the arm is, once it has been seen; nothing is commanded before."""
        motion = self._overrun.resume(self._watch.robot, now_ns, self._clock.stamp_ns)
        if motion is not None:
            self._motion = motion
        elif self._state in UNDER_WAY:
            self._hold_overrun(UNSEEN)

    def _hold_overrun(self, verdict: SafetyVerdict) -> None:
        """Drop what was being executed; an observation from before shows neither the arm nor its task now."""
        self._order.look_after(self._now_ns)
        if self._state in UNDER_WAY:
            self._interrupt(verdict)
        else:
            self._count(verdict)

    # Parts

    def _latch(self, reason: Reason, detail: str) -> SafetyVerdict:
        if not self._authority.latch(reason, detail):
            return self.refuse(self._authority.latched or OK)
        verdict = SafetyVerdict.hold(reason, detail)
        self._interrupt(verdict)
        return verdict

    def _interrupt(self, verdict: SafetyVerdict) -> None:
        """Stop what is being executed, for the reason of ``verdict``."""
        self._count(verdict)
        self._rest(verdict)

    def _rest(self, verdict: SafetyVerdict, keep_target: bool = False) -> None:
        """Execute nothing from now on; the next target composes on the measured pose unless kept."""
        self._executing.end(keep_target)
        latched, fault = self._authority.latched, self._watch.fault
        self._verdict = latched or fault or verdict
        if latched is not None:
            stopped = {Reason.E_STOP: ControllerState.E_STOP, Reason.SHUT_DOWN: ControllerState.STOPPED}
            self._state = stopped.get(latched.reason, ControllerState.HOLDING)
        elif fault is not None:
            self._state = ControllerState.STOPPED
        else:
            self._state = ControllerState.IDLE if self._motion is None else ControllerState.HOLDING

    def _count(self, verdict: SafetyVerdict) -> None:
        self._counters[verdict.reason] += 1

    def _output(self) -> ControllerOutput:
        motion = None if self._overrun.lasts else self._motion
        at_rest = motion is None or motion.is_at_rest
        return ControllerOutput(
            stamp_ns=self._clock.stamp_ns,
            state=self._state,
            owner=self._authority.owner,
            verdict=self._verdict,
            joint_positions=None if motion is None else read_only(motion.position),
            joint_velocities=None if motion is None else read_only(motion.velocity),
            joint_accelerations=None if motion is None else read_only(motion.acceleration),
            gripper_opening=self._gripper.opening,
            tool=None if motion is None else self.chain.forward(motion.position),
            target=self._executing.target,
            at_rest=at_rest,
            settled=at_rest and self._state is not ControllerState.HOMING and self._executing.settled,
            observation_ns=self._executing.observation_ns,
            counters=MappingProxyType(dict(self._counters)),
        )
