"""The controller's core: received chunks in, joint commands at the control rate out.

Sits between the messages (the controller node) and the arm's own software, and ties the parts
together: ``Authority`` (who), ``ChunkChecks``, ``ObservationOrder`` and ``StateChecks`` (whether),
``StepSchedule`` (what next), ``TargetLimits`` and ``ToolFollower`` (where to), ``MotionLimiter`` (how
fast), ``MotionChecks`` (whether that can end well), ``CommandClock`` (when) and ``Resumption`` (from
where, after the loop stood still). Every time is a stamp in nanoseconds that the caller passes in:
there is no clock here, so recorded, simulated and live time all work.
"""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from openvla_ros.profile import RobotProfile
from openvla_ros.robot.authority import PERSON, Authority, Owner
from openvla_ros.robot.gripper import GripperSwitch
from openvla_ros.robot.homing import JointLine, NamedPose, WayPlanner, checked_pose
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.delta_actions import compose
from openvla_ros.robot.motion.command_clock import CommandClock, Tick
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimiter, MotionLimits
from openvla_ros.robot.motion.tool_follower import ToolFollower
from openvla_ros.robot.output import ControllerOutput, ControllerState
from openvla_ros.robot.overrun import LastCommand, Resumption
from openvla_ros.robot.safety.chunk import ChunkChecks, ReceivedChunk
from openvla_ros.robot.safety.motion import MotionChecks, TargetLimits
from openvla_ros.robot.safety.observation_order import ObservationOrder
from openvla_ros.robot.safety.state import (
    RobotState,
    StateChecks,
    ToolDrift,
    Wrench,
    parse_state,
    parse_wrench,
)
from openvla_ros.robot.step_queue import StepSchedule
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.arrays import read_only
from openvla_ros.values.geometry import Pose
from openvla_ros.values.verdict import OK, Reason, SafetyVerdict

# Samples of the stop that are checked for where a motion leads, besides the next tick.
STOP_SAMPLES = 4
# Faults in which the arm pushes against something: the commanded joints then go to the measured ones.
PUSHING = (Reason.TRACKING, Reason.EFFORT, Reason.WRENCH)
UNSEEN = SafetyVerdict.hold(Reason.OVERRUN, "the arm has not been seen since the control loop stood still")


class ArmController:
    """The pure core of the controller node for one robot profile."""

    def __init__(self, profile: RobotProfile, owner: Owner = "policy") -> None:
        self.profile = profile
        self.chain = KinematicChain.from_profile(profile.arm)
        self.period_s = 1.0 / profile.control.rate_hz
        self._space = profile.space()
        self._limits = MotionLimits.from_profile(profile.limits)
        self._limiter = MotionLimiter(self._limits, self.period_s, profile.control.blend_s)
        self._follower = ToolFollower(profile, self.chain, self._limits)
        self._schedule = StepSchedule(profile.control, self._space.step_s)
        self._authority = Authority(owner)
        self._chunk_checks = ChunkChecks(profile)
        self._order = ObservationOrder()
        self._state_checks = StateChecks(profile)
        self._drift = ToolDrift(profile.control, self.chain)
        self._target_limits = TargetLimits(profile)
        self._motion_checks = MotionChecks(profile, self.chain, self._target_limits)
        self._planner = WayPlanner(profile, self._limits, self._motion_checks)
        self._gripper = GripperSwitch(profile.gripper)
        self._clock = CommandClock(self.period_s, max(profile.arm_backend.patience_s, self.period_s))
        self._resumption = Resumption(profile, self._limiter)

        self._state = ControllerState.IDLE
        self._verdict = SafetyVerdict.hold(Reason.WAITING, "nothing has been asked for")
        self._rivals: str | None = None  # who else commands the arm, in words
        self._fault: SafetyVerdict | None = None  # what the robot reports, until it is over
        self._counters: Counter[Reason] = Counter()

        self._robot: RobotState | None = None
        self._wrench: Wrench | None = None
        self._motion: JointMotion | None = None  # None until something was asked for
        self._overrun: LastCommand | None = None  # the loop stood still and the arm has not been seen since
        self._anchored = False  # whether targets compose on the commanded one, not on the measured pose
        self._homing: tuple[NamedPose, list[JointLine]] | None = None  # the pose, and the lines to it
        self._observation_ns: int | None = None  # of the chunk that the step being executed is from

        self._now_ns: int | None = None
        self._accepted_ns: int | None = None
        self._fed_ns = 0  # when a step was last under way

    @property
    def blind_spots(self) -> dict[str, str]:
        """Links whose collisions are not checked, or not wholly, each with the reason."""
        return self._motion_checks.blind_spots

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
        state = parse_state(self.profile, joint_positions, velocities, effort, stamp_ns, now_ns)
        if isinstance(state, SafetyVerdict):
            return self._refuse(state)
        if self._robot is not None and stamp_ns < self._robot.stamp_ns:
            return self._refuse(
                SafetyVerdict.hold(Reason.OUT_OF_ORDER, "the joint state is older than the one before")
            )
        self._robot = state
        return OK

    def observe_wrench(
        self, force: ArrayLike, torque: ArrayLike, stamp_ns: int, now_ns: int
    ) -> SafetyVerdict:
        """Take in the external force (3,) N and torque (3,) N m; returns why they are not used, or OK."""
        wrench = parse_wrench(force, torque, stamp_ns, now_ns)
        if isinstance(wrench, SafetyVerdict):
            return self._refuse(wrench)
        self._wrench = wrench
        return OK

    # What is asked of the arm

    def accept(self, chunk: ActionChunk | ReceivedChunk, source: Owner, now_ns: int) -> SafetyVerdict:
        """Queue ``chunk`` for execution, or refuse it; returns which, and why."""
        received = ReceivedChunk.from_chunk(chunk, self.profile) if isinstance(chunk, ActionChunk) else chunk
        verdict = self._judge(received, source, now_ns)
        if not verdict.commands:
            return self._refuse(verdict)
        moving = self._state is ControllerState.EXECUTING
        if not self._anchored:
            self._anchor()
        remaining_s = self._follower.path.remaining_s
        values, limited = self._chunk_checks.limit(received.values)
        skipped = self._schedule.take(values, received.stamp_ns, now_ns, remaining_s, moving)
        self._order.used(received.stamp_ns)
        self._accepted_ns = self._fed_ns = now_ns
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
        self.stand_back(self._rivals)
        self._rest(self._authority.latched or OK)
        return self._verdict

    def hold(self, why: str = "held by the operator; give the arm to an owner to go on") -> SafetyVerdict:
        """Come smoothly to rest and stay there until ``give_to`` or ``go_to``."""
        return self._latch(Reason.HELD, why)

    def refuse(self, verdict: SafetyVerdict) -> SafetyVerdict:
        """Count what was refused before it could be read; returns ``verdict``."""
        return self._refuse(verdict)

    def stand_back(self, rivals: str | None) -> None:
        """Stop and then command nothing while somebody else commands the arm, as ``rivals`` says in words.

        With None they are gone: the arm stays held until ``give_to``, and goes on from where it is then.
        """
        self._rivals = rivals
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
            return self._refuse(forbidden)
        self._order.look_after(self._now_ns)
        self._rest(SafetyVerdict.hold(Reason.WAITING, f"waiting for {owner}"))
        return OK

    def go_to(self, name: NamedPose) -> SafetyVerdict:
        """Start moving along straight lines in joint space to a named pose of the profile.

        It goes by way of home where the direct line would collide. The arm comes to rest first.
        Allowed while the arm is held; it is held again at the end.
        """
        checked_pose(name)
        latched = self._authority.latched
        if latched is not None and latched.reason is not Reason.HELD:
            return self._refuse(latched)
        if self._robot is None or self._now_ns is None:
            return self._refuse(SafetyVerdict.hold(Reason.NO_STATE, "no joint state has been received"))
        verdict = self._state_checks.check(self._robot, None, self._wrench, self._now_ns)
        if not verdict.commands:
            return self._refuse(verdict)
        if self._overrun is not None:
            return self._refuse(UNSEEN)
        on_the_way = SafetyVerdict.command(detail=f"on the way to {name}")
        self._rest(on_the_way)
        if self._motion is None:
            self._motion = JointMotion.at_rest(self._robot.positions)
        self._homing = name, []
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
            if self._overrun is None:
                moved_s = self._advance(now_ns)
            else:
                self._end_overrun(self._overrun, now_ns)
            self._schedule.note(now_ns, moved_s)
        return self._output()

    def _advance(self, now_ns: int) -> float:
        """Advance the motion by one period; returns for how long a step was under way, seconds."""
        self._watch(now_ns)
        match self._state:
            case ControllerState.EXECUTING:
                return self._execute(now_ns)
            case ControllerState.HOMING:
                self._home(now_ns)
            case _:
                self._stop()
        return 0.0

    def _forget_time(self) -> None:
        """The clock went back (a simulation was reset): nothing from before it means anything now."""
        self._robot = self._wrench = None
        self._accepted_ns = None
        self._order.forget_time()
        self._schedule.forget_time()
        if self._overrun is not None:
            self._overrun = self._motion = None
        if self._state in (ControllerState.EXECUTING, ControllerState.HOMING):
            self._interrupt(SafetyVerdict.hold(Reason.TIMING, "the clock went back"))

    def _begin_overrun(self, last_ns: int, stall: str) -> None:
        """The loop stood still since the command of ``last_ns``; the robot's side went on without it."""
        if self._motion is None or self._overrun is not None:
            return
        self._overrun = LastCommand(self._motion, last_ns)
        stood_s = self._clock.elapsed_s
        if self._homing is not None:  # planned anew once the arm rests
            self._homing = self._homing[0], []
        text = f"the control loop stood still for {stood_s:.3f} s" + (f": {stall}" if stall else "")
        if stood_s > self.profile.state.max_age_s:
            self._hold_overrun(text)
        else:
            self._count(SafetyVerdict.command(Reason.OVERRUN, text))

    def _end_overrun(self, last: LastCommand, now_ns: int) -> None:
        """Go on from where the arm is, once it has been seen; nothing is commanded before."""
        state = self._robot
        if state is None or (now_ns - state.stamp_ns) * 1e-9 > self.profile.state.max_age_s:
            if self._state in (ControllerState.EXECUTING, ControllerState.HOMING):
                self._hold_overrun(UNSEEN.detail)
            return
        self._motion = self._resumption.motion(last, state, self._clock.stamp_ns)
        self._overrun = None

    def _hold_overrun(self, detail: str) -> None:
        """Drop what was being executed; an observation from before shows neither the arm nor its task now."""
        self._order.look_after(self._now_ns)
        if self._state in (ControllerState.EXECUTING, ControllerState.HOMING):
            self._interrupt(SafetyVerdict.hold(Reason.OVERRUN, detail))
        else:
            self._count(SafetyVerdict.hold(Reason.OVERRUN, detail))

    def _watch(self, now_ns: int) -> None:
        """Stop while the robot's own reports forbid motion; hold when that is over."""
        if self._motion is None:
            return
        verdict = self._state_checks.check(self._robot, self._motion.position, self._wrench, now_ns)
        before, self._fault = self._fault, None if verdict.commands else verdict
        if self._fault is None:
            if before is not None:
                self._rest(SafetyVerdict.hold(Reason.WAITING, f"over: {before.detail}"))
        elif before is None or before.reason is not self._fault.reason:
            self._interrupt(self._fault)

    def _execute(self, now_ns: int) -> float:
        """Advance the execution of chunks; returns for how long a step was under way, seconds."""
        path = self._follower.path
        if self._owner_let_go(now_ns):
            self._interrupt(SafetyVerdict.hold(Reason.DEAD_MAN, "no chunk from the operator's hand"))
        elif path.step_done and not len(self._schedule):
            self._end_if_over(now_ns)
        elif path.step_done:
            self._begin_step()
        if self._state is not ControllerState.EXECUTING:
            self._stop()
            return 0.0
        moved_s = 0.0 if path.step_done else self.period_s
        if moved_s > 0.0:
            self._fed_ns = now_ns
        self._follow()
        return moved_s

    def _owner_let_go(self, now_ns: int) -> bool:
        if self._authority.owner != PERSON or self._accepted_ns is None:
            return False
        return (now_ns - self._accepted_ns) * 1e-9 > self.profile.control.dead_man_s

    def _begin_step(self) -> None:
        action = self._schedule.next()
        assert action is not None
        self._observation_ns = self._schedule.stamp_ns
        base = self._follower.path.target
        assert self._motion is not None
        assert self._robot is not None
        verdict = self._drift.check(self._motion.position, self._robot.positions) or OK
        if verdict.reason is Reason.TRACKING:
            base = self._measured_tool()
            self._count(verdict)
        target, limited = self._target_limits.limit(compose(base, action, self._space), base)
        if limited.reason is not Reason.OK:
            verdict = limited
            self._count(limited)
        self._follower.path.begin(target, self._schedule.step_s)
        self._gripper.ask(self._space.opening(float(action[-1])))
        self._verdict = verdict

    def _follow(self) -> None:
        motion = self._motion
        assert motion is not None
        reference = self._follower.advance(motion)
        if isinstance(reference, SafetyVerdict):
            self._interrupt(reference)
            self._stop()
            return
        following = self._limiter.follow(motion, reference, self._clock.elapsed_s)
        stop = self._limiter.stop_samples(following, STOP_SAMPLES)
        verdict = self._motion_checks.check(motion.position, np.concatenate([following.position[None], stop]))
        if verdict.commands:
            self._motion = following
        else:
            self._interrupt(verdict)
            self._stop()

    def _end_if_over(self, now_ns: int) -> None:
        """End the motion if the move is done (blocking) or no chunk came in time (streaming)."""
        control = self.profile.control
        assert self._motion is not None
        if control.mode == "blocking":
            if self._follower.path.settled and self._motion.is_at_rest:
                self._order.look_after(now_ns)
                self._rest(SafetyVerdict.hold(Reason.WAITING, "the move is done"), keep_target=True)
            return
        starved_s = (now_ns - self._fed_ns) * 1e-9
        if starved_s > control.hold_after_s:
            self._interrupt(
                SafetyVerdict.hold(
                    Reason.STARVED, f"no chunk for {starved_s:.2f} s; the limit is {control.hold_after_s} s"
                )
            )

    def _home(self, now_ns: int) -> None:
        assert self._homing is not None
        assert self._motion is not None
        name, lines = self._homing
        if not lines:
            if not self._motion.is_at_rest:
                self._stop()
                return
            planned = self._planner.plan(self._motion.position, name)
            if isinstance(planned, SafetyVerdict):
                self._interrupt(planned)
                return
            lines.extend(planned)
        self._motion = lines[0].advance(self._clock.elapsed_s)
        if lines[0].done and self._motion.is_at_rest:
            lines.pop(0)
            if not lines:
                self._order.look_after(now_ns)
                self._rest(SafetyVerdict.hold(Reason.WAITING, f"at {name}"))

    def _stop(self) -> None:
        """Go on along the fastest stop; pushed against something, go to where the arm really is."""
        motion, fault = self._motion, self._fault
        if motion is None:
            return
        pushing = fault is not None and fault.reason in PUSHING and self._authority.latched is None
        if pushing and self._robot is not None:
            measured = JointMotion.at_rest(self._robot.positions)
            self._motion = self._limiter.follow(motion, measured, self._clock.elapsed_s)
        else:
            self._motion = self._limiter.stop(motion, self._clock.elapsed_s)
        self._fall_silent()

    def _fall_silent(self) -> None:
        """Command nothing any more once the arm rests beside a rival, who may move it from there."""
        latched = self._authority.latched
        if latched is None or latched.reason is not Reason.RIVAL:
            return
        if self._motion is not None and self._motion.is_at_rest:
            self._motion = None
            self._gripper = GripperSwitch(self.profile.gripper)

    # Parts

    def _judge(self, chunk: ReceivedChunk, source: Owner, now_ns: int) -> SafetyVerdict:
        refused = self._authority.judge(source)
        if refused is not None:
            return refused
        for verdict in (
            self._chunk_checks.check(chunk, now_ns),
            self._busy() or self._order.judge(chunk.stamp_ns) or OK,
            self._state_checks.check(self._robot, None, self._wrench, now_ns),
            self._state_checks.check_limits(self._robot),
            self._fault or (UNSEEN if self._overrun is not None else OK),
        ):
            if not verdict.commands:
                return verdict
        return OK

    def _busy(self) -> SafetyVerdict | None:
        if self._state is ControllerState.HOMING:
            return SafetyVerdict.hold(Reason.BUSY, "the arm is on its way to a named pose")
        if self.profile.control.mode == "blocking" and self._state is ControllerState.EXECUTING:
            return SafetyVerdict.hold(Reason.BUSY, "the move before is not over")
        return None

    def _anchor(self) -> None:
        """Compose from the measured pose; the commanded joints go on from where they are."""
        assert self._robot is not None
        if self._motion is None:
            self._motion = JointMotion.at_rest(self._robot.positions)
        self._follower.anchor(self._motion.position, self._measured_tool())
        self._anchored = True

    def _measured_tool(self) -> Pose:
        assert self._robot is not None
        return self.chain.forward(self._robot.positions)

    def _latch(self, reason: Reason, detail: str) -> SafetyVerdict:
        if not self._authority.latch(reason, detail):
            return self._refuse(self._authority.latched or OK)
        verdict = SafetyVerdict.hold(reason, detail)
        self._interrupt(verdict)
        return verdict

    def _interrupt(self, verdict: SafetyVerdict) -> None:
        """Stop what is being executed, for the reason of ``verdict``."""
        self._count(verdict)
        self._rest(verdict)

    def _rest(self, verdict: SafetyVerdict, keep_target: bool = False) -> None:
        """Execute nothing from now on; the next target composes on the measured pose unless kept."""
        self._schedule.clear()
        self._homing = self._observation_ns = None
        self._anchored = self._anchored and keep_target
        self._verdict = verdict
        latched = self._authority.latched
        if latched is not None:
            self._verdict = latched
            stopped = {Reason.E_STOP: ControllerState.E_STOP, Reason.SHUT_DOWN: ControllerState.STOPPED}
            self._state = stopped.get(latched.reason, ControllerState.HOLDING)
        elif self._fault is not None:
            self._verdict, self._state = self._fault, ControllerState.STOPPED
        else:
            self._state = ControllerState.IDLE if self._motion is None else ControllerState.HOLDING

    def _refuse(self, verdict: SafetyVerdict) -> SafetyVerdict:
        self._count(verdict)
        return verdict

    def _count(self, verdict: SafetyVerdict) -> None:
        self._counters[verdict.reason] += 1

    def _output(self) -> ControllerOutput:
        motion = self._motion if self._overrun is None else None
        at_rest = motion is None or motion.is_at_rest
        idle = self._state is not ControllerState.HOMING and not len(self._schedule)
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
            target=self._follower.path.target if self._anchored else None,
            at_rest=at_rest,
            settled=at_rest and idle and (not self._anchored or self._follower.path.settled),
            observation_ns=self._observation_ns,
            counters=MappingProxyType(dict(self._counters)),
        )
