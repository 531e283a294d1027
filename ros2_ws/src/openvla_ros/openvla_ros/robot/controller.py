"""The controller's core: received chunks in, joint commands at the control rate out.

Sits between the messages (the controller node) and the arm's own software, and ties the parts together:
``Authority`` (who may move it), ``Admission`` and ``RobotWatch`` (whether), and ``ModeSwitch`` (how). Every
time is a stamp in nanoseconds that the caller passes in: there is no clock here, so recorded, simulated and
live time all work.
"""

from __future__ import annotations

from numpy.typing import ArrayLike

from openvla_ros.profile import RobotProfile
from openvla_ros.robot.admission import Admission
from openvla_ros.robot.authority import PERSON, Authority, Owner
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.mode_switch import NOTHING_ASKED, ModeSwitch
from openvla_ros.robot.modes.overrun import UNSEEN
from openvla_ros.robot.modes.way_planner import NamedPose, checked_pose
from openvla_ros.robot.output import ControllerOutput
from openvla_ros.robot.safety.chunk import ChunkChecks, ReceivedChunk
from openvla_ros.robot.safety.observation_order import ObservationOrder
from openvla_ros.robot.safety.robot_watch import RobotWatch
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.verdict import OK, Reason, SafetyVerdict


class ArmController:
    """The pure core of the controller node for one robot profile.

    Call ``observe`` for every joint state, ``accept`` for every chunk, and ``tick`` at the control rate. All
    times are nanoseconds of one clock, the one that stamps the observations.

    Attributes:
        profile: The robot.
        chain: Its kinematics.
        period_s: The control period, seconds.
        blind_spots: Links whose collisions are not, or not fully, checked, with the reason.
    """

    def __init__(self, profile: RobotProfile, owner: Owner = "policy") -> None:
        """Read the arm's geometry; nothing is commanded yet.

        Args:
            profile: The robot: its limits, its action space, and how actions become motion.
            owner: Whose chunks are executed: ``policy`` or ``teleoperation``.

        Raises:
            KinematicsError: The URDF does not have the profile's links and joints.
            InvalidValueError: There is no such owner.
        """
        self.profile = profile
        self.chain = KinematicChain.from_profile(profile.arm)
        self.period_s = 1.0 / profile.control.rate_hz
        self._authority = Authority(owner)
        self._chunk_checks = ChunkChecks(profile)
        self._order = ObservationOrder()
        self._watch = RobotWatch(profile)
        self._modes = ModeSwitch(profile, self.chain, self._authority, self._order, self._watch)
        self.blind_spots = self._modes.blind_spots
        self._admission = Admission(
            profile.control,
            self._authority,
            self._chunk_checks,
            self._order,
            self._watch,
            self._modes.overrun,
        )

    # What the robot reports

    def observe(
        self,
        joint_positions: ArrayLike,
        velocities: ArrayLike | None,
        effort: ArrayLike | None,
        stamp_ns: int,
        now_ns: int,
    ) -> SafetyVerdict:
        """Take in a joint state.

        Args:
            joint_positions: (J,) rad, in the profile's joint order.
            velocities: (J,) rad/s, if the robot reports them.
            effort: (J,) N m, if the robot reports it; checked against the profile's limits.
            stamp_ns: When the joints were measured.
            now_ns: The time of this call.

        Returns:
            OK, or a hold with the reason why the state is not used.
        """
        verdict = self._watch.observe(joint_positions, velocities, effort, stamp_ns, now_ns)
        return verdict if verdict.commands else self.refuse(verdict)

    def observe_wrench(
        self, force: ArrayLike, torque: ArrayLike, stamp_ns: int, now_ns: int
    ) -> SafetyVerdict:
        """Take in an external wrench; its norm is checked against the profile's limits.

        Args:
            force: (3,) N.
            torque: (3,) N m.
            stamp_ns: When it was measured.
            now_ns: The time of this call.

        Returns:
            OK, or a hold with the reason why the wrench is not used.
        """
        verdict = self._watch.observe_wrench(force, torque, stamp_ns, now_ns)
        return verdict if verdict.commands else self.refuse(verdict)

    # What is asked of the arm

    def accept(self, chunk: ActionChunk | ReceivedChunk, source: Owner, now_ns: int) -> SafetyVerdict:
        """Queue a chunk for execution, or refuse it; the arm moves only in ``tick``.

        Args:
            chunk: Actions (T, D) in the robot's space, or as they arrived in a message.
            source: Who sends it; refused unless this is the owner of the arm.
            now_ns: The time of this call; observation stamps are compared with it.

        Returns:
            A command if the chunk is executed, with the reason if it was clipped; else a hold with the
            reason. Steps that should have started already are skipped.
        """
        received = ReceivedChunk.from_chunk(chunk, self.profile) if isinstance(chunk, ActionChunk) else chunk
        verdict = self._admission.judge(received, source, self._modes.state, now_ns)
        if not verdict.commands:
            return self.refuse(verdict)
        values, limited = self._chunk_checks.limit(received.values)
        verdict = self._modes.judge(values, received.stamp_ns)
        if not verdict.commands:
            return self.refuse(verdict)
        skipped = self._modes.execute(values, received.stamp_ns, now_ns)
        self._order.used(received.stamp_ns)
        if limited.reason is not Reason.OK:
            self._modes.count(limited)
            return limited
        return SafetyVerdict.command(detail=f"{skipped} steps are past" if skipped else "")

    def e_stop(self, source: str) -> SafetyVerdict:
        """Stop as fast as the limits allow and stay stopped until ``reset_e_stop``.

        Args:
            source: Who pressed it, for the verdict's text.

        Returns:
            The verdict from now on: ``e_stop``.
        """
        return self._latch(Reason.E_STOP, f"emergency stop by {source}")

    def reset_e_stop(self) -> SafetyVerdict:
        """Clear the emergency stop; the arm stays held until ``give_to`` names who may move it."""
        if not self._authority.reset_e_stop():
            return SafetyVerdict.command(detail="there is no emergency stop to reset")
        self._authority.latch_bar()
        self._modes.rest(self._authority.latched or OK)
        return self._modes.verdict

    def hold(self, why: str = "held by the operator; give the arm to an owner to continue") -> SafetyVerdict:
        """Come smoothly to rest and stay there until ``give_to`` or ``go_to``.

        Args:
            why: The verdict's text.

        Returns:
            The verdict from now on: ``held``, or the stronger stop that is in force.
        """
        return self._latch(Reason.HELD, why)

    def refuse(self, verdict: SafetyVerdict) -> SafetyVerdict:
        """Count a refusal, made here or before the chunk could be read.

        Args:
            verdict: The refusal.

        Returns:
            The same verdict.
        """
        self._modes.count(verdict)
        return verdict

    def stand_back(self, why: str | None, reason: Reason = Reason.RIVAL) -> None:
        """Stop and then command nothing while another node commands the arm, or its driver is not to be used.

        Args:
            why: Who or what it is, in words. None: that is over; the arm stays held until ``give_to``, and
                continues from where it is then. One that was never moved is not held.
            reason: ``rival`` or ``driver``; one does not end the other.
        """
        if why is None:
            if self._authority.unbar(reason):
                self._modes.rest(self._authority.latched or NOTHING_ASKED)
        elif self._authority.bar(reason, why, self._modes.is_fresh):
            self._modes.interrupt(SafetyVerdict.hold(reason, why))
        elif (latched := self._authority.latched) is not None:  # a stronger stop, which says the other too
            self._modes.verdict = SafetyVerdict.hold(latched.reason, f"{latched.detail}; {why}")

    def give_to(self, owner: Owner) -> SafetyVerdict:
        """Decide whose chunks are executed; the arm comes to rest first.

        What was computed from an observation before this moment is refused. Releases a hold.

        Args:
            owner: ``policy`` or ``teleoperation``.

        Returns:
            OK, or the stop that is in force: an emergency stop must be reset first.

        Raises:
            InvalidValueError: There is no such owner.
        """
        forbidden = self._authority.give_to(owner)
        if forbidden is not None:
            return self.refuse(forbidden)
        self._order.look_after(self._modes.now_ns)
        self._modes.rest(SafetyVerdict.hold(Reason.WAITING, f"waiting for {owner}"))
        return OK

    def ask_for_policy(self, hand: str | None) -> SafetyVerdict:
        """Give the arm to the policy because of a new instruction, unless a person's hand is on it.

        Only the person hands the arm back: by the teleoperation's key, or by ``give_to``.

        Args:
            hand: The teleoperation that is there, in words; None if there is none.

        Returns:
            OK, or the hold that says who has the arm.
        """
        if self._authority.owner == PERSON and hand is not None:
            return self.refuse(
                SafetyVerdict.hold(
                    Reason.OWNER,
                    f"{hand} has the arm; hand it back there, or with openvla give-to-policy",
                )
            )
        return self.give_to("policy")

    def go_to(self, name: NamedPose) -> SafetyVerdict:
        """Start moving along straight lines in joint space to a named pose of the profile.

        It goes by way of home where the direct line would collide. The arm comes to rest first.
        Allowed while the arm is held. No chunk moves it from then on until ``give_to``: whoever sent it there
        may reach for it, and a policy that still acts must not move it away.

        Args:
            name: ``neutral``, ``home`` or ``park``.

        Returns:
            A command if the arm is on the way, else a hold with the reason.

        Raises:
            InvalidValueError: There is no such pose.
        """
        checked_pose(name)
        latched, robot = self._authority.latched, self._watch.robot
        if latched is not None and latched.reason is not Reason.HELD:
            return self.refuse(latched)
        if robot is None or self._modes.now_ns is None:
            return self.refuse(SafetyVerdict.hold(Reason.NO_STATE, "no joint state has been received"))
        verdict = self._watch.check(self._modes.now_ns)
        if not verdict.commands:
            return self.refuse(verdict)
        if self._modes.overrun.lasts:
            return self.refuse(UNSEEN)
        if (fault := self._watch.fault) is not None:  # held, the commands do not go to where the arm is
            remedy = "give the arm to an owner, and ask again once the commands have gone to where it is"
            return self.refuse(SafetyVerdict.hold(fault.reason, f"{fault.detail}; {remedy}"))
        self._authority.sent_to = name
        return self._modes.go_to(name, robot.positions)

    def shutdown(self) -> ControllerOutput:
        """Begin the last stop; ``tick`` until the output is at rest, then send nothing more.

        Returns:
            What to command now.
        """
        self._latch(Reason.SHUT_DOWN, "the controller is shutting down")
        return self._modes.output()

    # The loop

    def tick(self, now_ns: int, stall: str = "") -> ControllerOutput:
        """Advance the motion by one control period if one has passed, and return what to command.

        Call it at least once per control period. A call that is so late that the robot's side has braked by
        itself is an overrun: nothing is commanded until the arm has been measured again.

        Args:
            now_ns: The time of this call.
            stall: Why this call is late, if known; it becomes part of the detail of ``overrun``.

        Returns:
            Joints, gripper, state and verdict; nothing is commanded if its ``joint_positions`` is None.
        """
        self._modes.tick(now_ns, stall)
        return self._modes.output()

    def _latch(self, reason: Reason, detail: str) -> SafetyVerdict:
        if not self._authority.latch(reason, detail):
            return self.refuse(self._authority.latched or OK)
        verdict = SafetyVerdict.hold(reason, detail)
        self._modes.interrupt(verdict)
        if self._authority.barred is not None:
            self._modes.verdict = SafetyVerdict.hold(reason, f"{detail}; {self._authority.barred}")
        return verdict
