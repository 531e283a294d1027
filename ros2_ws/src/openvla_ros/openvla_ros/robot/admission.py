"""Whether a received chunk is executed: who sent it, what it is, what it was computed from, and the robot."""

from __future__ import annotations

from openvla_ros.profile import ControlProfile
from openvla_ros.robot.authority import Authority
from openvla_ros.robot.modes.overrun import UNSEEN, Overrun
from openvla_ros.robot.output import ControllerState
from openvla_ros.robot.safety.chunk import ChunkChecks, ReceivedChunk
from openvla_ros.robot.safety.observation_order import ObservationOrder
from openvla_ros.robot.safety.robot_watch import RobotWatch
from openvla_ros.values.verdict import OK, Reason, SafetyVerdict


class Admission:
    """Asks each part of the controller whether a chunk may be executed; changes none of them."""

    def __init__(
        self,
        control: ControlProfile,
        authority: Authority,
        checks: ChunkChecks,
        order: ObservationOrder,
        watch: RobotWatch,
        overrun: Overrun,
    ) -> None:
        self._blocking = control.mode == "blocking"
        self._authority, self._checks, self._order = authority, checks, order
        self._watch, self._overrun = watch, overrun

    def judge(self, chunk: ReceivedChunk, source: str, state: ControllerState, now_ns: int) -> SafetyVerdict:
        """Return OK, or the hold that says why ``chunk`` is not executed by a controller in ``state``."""
        refused = self._authority.judge(source)
        if refused is not None:
            return refused
        for verdict in (
            self._checks.check(chunk, now_ns),
            self._busy(state) or self._authority.judge_pose() or self._order.judge(chunk.stamp_ns) or OK,
            self._watch.check(now_ns),
            self._watch.check_limits(),
            self._watch.fault or (UNSEEN if self._overrun.lasts else OK),
        ):
            if not verdict.commands:
                return verdict
        return OK

    def _busy(self, state: ControllerState) -> SafetyVerdict | None:
        if state is ControllerState.HOMING:
            return SafetyVerdict.hold(Reason.BUSY, "the arm is on its way to a named pose")
        if self._blocking and state is ControllerState.EXECUTING:
            return SafetyVerdict.hold(Reason.BUSY, "the previous move is not finished")
        return None
