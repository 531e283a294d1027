"""The controller as a ROS 2 node: chunks in, joint commands out, and every refusal with its reason.

What is decided is decided in ``robot.controller.ArmController``. Here the messages become values,
a thread beside the executor ticks at the control rate, and the profile's back ends speak to the
robot. The node outlives the policy and the cameras; it commands nothing until something was asked
of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped, WrenchStamped
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.discovery.endpoints import listed, publishers
from openvla_ros.discovery.rival_watch import RivalWatch, command_topics
from openvla_ros.drivers.factory import make_arm, make_gripper, make_recovery
from openvla_ros.drivers.protocol import ArmCommand, GripperCommand
from openvla_ros.errors import FatalNodeError, describe
from openvla_ros.nodes.control.chunk_sources import ChunkSources
from openvla_ros.nodes.control.control_loop import ControlLoop
from openvla_ros.nodes.control.controller_health import ControllerHealth
from openvla_ros.nodes.control.core_lock import CoreLock
from openvla_ros.nodes.control.driver_links import DriverLinks
from openvla_ros.nodes.control.state_sources import Rivals, StateSources
from openvla_ros.nodes.control.stop_memory import StopMemory
from openvla_ros.nodes.control.stop_services import StopServices
from openvla_ros.nodes.control.verdict_publisher import VerdictPublisher
from openvla_ros.profile import RobotProfile, load_profile
from openvla_ros.robot.authority import Owner
from openvla_ros.robot.controller import ArmController
from openvla_ros.robot.motion.motion_limiter import JointMotion
from openvla_ros.robot.output import ControllerOutput
from openvla_ros.ros import process, qos
from openvla_ros.ros.diagnostics import DiagnosticsPublisher
from openvla_ros.ros.guard import TOO_LARGE, UNREADABLE, GuardedNode, Refused
from openvla_ros.ros.messages import (
    LARGEST_CHUNK_BYTES,
    NS_PER_S,
    from_stamp,
    joint_position,
    joint_values,
    to_pose,
    to_received_chunk,
)
from openvla_ros.ros.parameters import declare, parameter
from openvla_ros.ros.verdict_messages import trigger_service
from openvla_ros.values.arrays import Float
from openvla_ros.values.health import Health
from openvla_ros.values.verdict import Reason, SafetyVerdict

TELEOPERATION = "teleop/action_chunk"
GRIPPER_PERIOD_S = 0.02  # bridge_data_robot drives its gripper 50 times a second
REPORT_PERIOD_S = 0.02  # poses, and changes of the verdict
CONNECT_PERIOD_S = 0.5
# How long the last stop may take: the slowest joint from full speed, with a wide margin.
STOP_S = 3.0
# How long the robot's side may take to acknowledge the last command. Fast DDS asks for acknowledgements
# only every 3 s (its heartbeat period by default): what was sent just after one is acknowledged then.
DELIVERY_S = 4.0


@dataclass(frozen=True)
class ControllerParameters:
    """What an operator sets; limits, rates and topics come from the profile."""

    robot: str = parameter("sim_widowx", "robot profile: a name or a YAML file", read_only=True)
    mode: str = parameter(
        "profile", "how chunks are executed", read_only=True, choices=("profile", "streaming", "blocking")
    )


class ControllerNode(GuardedNode):
    """Moves one arm, within its limits, for one owner at a time."""

    def __init__(self) -> None:
        super().__init__("controller")
        settings = declare(self, ControllerParameters)
        self._profile = _with_mode(load_profile(settings.robot), settings.mode)
        self._core = ArmController(self._profile)
        for link, why in self._core.blind_spots.items():
            self.get_logger().warning(
                f"{link} is not checked for collisions with the arm or the table: {why}"
            )
        # Of the core, and of what the control thread reads. What raises while it is held, holds the arm.
        self._lock = CoreLock(lambda error: self._core.hold(f"callback failed: {describe(error)}"))
        self._arm = make_arm(self, self._profile)
        self._gripper = make_gripper(self, self._profile)
        self._recovery = make_recovery(self, self._profile)
        self._links = DriverLinks(self, self._profile, self._arm, self._gripper, self._heed_driver)
        self._output = self._core.tick(self._now_ns())
        self._measured: Float | None = None  # (J,) rad
        self._finger_m: float | None = None
        self._senders: dict[Owner, ChunkSources] = {}
        self._hears_chunks = False  # once it is known whether somebody else commands the arm
        self._space = self._profile.space()
        self._health = ControllerHealth(self._profile)
        self._make_interface()
        simulated = bool(self.get_parameter("use_sim_time").value)
        self._loop = ControlLoop(self._core.period_s, self._tick, self.get_clock(), simulated, self._rests)
        memory = StopMemory(f"{os.environ.get('ROS_DOMAIN_ID', '0')} {self.get_fully_qualified_name()}")
        self._stops = StopServices(self, self._core, self._lock, self._report_refusal, memory, self._stopped)
        self._loop.start()
        self._stops.start()

    def stop(self) -> None:
        """End the control thread, bring the arm to rest from here, and see the hold delivered. Called once.

        Nothing is received any more, so a simulated clock stands still: the periods are counted.
        """
        if not self._loop.stop():
            self.get_logger().error("the control thread did not end")
        if not self._stops.close():
            self.get_logger().error("the stop thread did not end")
        self._output = self._core.shutdown()
        now_ns, period_ns = self._now_ns(), round(self._core.period_s * NS_PER_S)
        for _ in range(round(STOP_S / self._core.period_s)):
            if self._output.at_rest:
                break
            time.sleep(self._core.period_s)
            now_ns += period_ns
            self._output = self._core.tick(now_ns)
            self._send(self._output)
        self._send(self._output)
        self._verdicts.publish(self._output)
        if not self._arm.delivered(DELIVERY_S):
            self.get_logger().warning(
                f"the robot did not acknowledge the last command within {DELIVERY_S:.0f} s"
            )

    # Messages in

    def _joint_state(self, message: JointState, info: Mapping[str, Any]) -> None:
        now_ns, stamp_ns = self._now_ns(), from_stamp(message.header.stamp)
        finger_m = joint_position(message, self._profile.gripper.joint)
        if finger_m is not None:
            self._finger_m = finger_m
        if not set(self._profile.arm.joints) & set(message.name):
            return  # another driver's: the gripper's, a mobile base's
        positions, velocities, effort = self._arm_values(message)
        if not self._state_sources.believe(info):
            return
        self._health.joint_states.received(stamp_ns, now_ns)
        with self._lock:
            verdict = self._core.observe(positions, velocities, effort, stamp_ns, now_ns)
            if verdict.commands:
                self._measured = positions
        self._report_refusal(verdict)

    def _arm_values(self, message: JointState) -> tuple[Float, Float | None, Float | None]:
        names = self._profile.arm.joints
        velocities = joint_values(message, names, "velocity") if message.velocity else None
        wants_effort = self._profile.limits.effort is not None and message.effort
        effort = joint_values(message, names, "effort") if wants_effort else None
        return joint_values(message, names), velocities, effort

    def _state_refused(self, refused: Refused) -> None:
        self._report_refusal(SafetyVerdict.hold(Reason.STATE_INVALID, str(refused)))

    def _wrench(self, message: WrenchStamped, info: Mapping[str, Any]) -> None:
        if not self._wrench_sources.believe(info):
            return
        f, t, stamp_ns = message.wrench.force, message.wrench.torque, from_stamp(message.header.stamp)
        with self._lock:
            verdict = self._core.observe_wrench([f.x, f.y, f.z], [t.x, t.y, t.z], stamp_ns, self._now_ns())
        self._report_refusal(verdict)

    def _chunk(self, source: Owner, message: JointTrajectory, info: Mapping[str, Any]) -> None:
        now_ns = self._now_ns()
        self._health.chunks[source].received(from_stamp(message.header.stamp), now_ns)
        rival = self._senders[source].judge(info)
        if rival is not None:
            self._report_refusal(rival, source, from_stamp(message.header.stamp))
            return
        chunk = to_received_chunk(message, self._space)
        with self._lock:
            verdict = self._core.accept(chunk, source, now_ns)
        self._report_refusal(verdict, source, chunk.stamp_ns)

    def _chunk_refused(self, source: Owner, refused: Refused) -> None:
        if refused.reason in (TOO_LARGE, UNREADABLE):
            with self._lock:
                verdict = self._core.refuse(SafetyVerdict.hold(Reason.WIDTH, str(refused)))
            self._report_refusal(verdict, source)

    # Services

    def _hand(self) -> str | None:
        """Return which nodes can teleoperate the arm now, or None."""
        names = [endpoint.node for endpoint in publishers(self, TELEOPERATION)]
        return listed(names) if names else None

    def _recover(self) -> SafetyVerdict:
        if self._recovery is None:
            return SafetyVerdict.hold(
                Reason.WAITING, f"the profile {self._profile.name!r} names no arm_backend.recovery_action"
            )
        problem = self._recovery.recover()
        return SafetyVerdict.hold(Reason.WAITING, problem) if problem else SafetyVerdict.command()

    def _serve(self, act: Callable[[], SafetyVerdict], grant: Reason) -> Callable[..., Trigger.Response]:
        """Return the callback of a service; a hold for the reason ``grant`` is what was asked for."""

        def locked() -> SafetyVerdict:
            with self._lock:
                return act()

        return trigger_service(locked, grant, self._report_refusal)

    # The control thread

    def _tick(self) -> None:
        with self._lock:
            stall = self._loop.stall(self._lock.waited_s())
            now_ns = self._now_ns() + self._loop.early_ns
            before, self._output = self._output, self._core.tick(now_ns, stall)
            output = self._output
        # A tick that came too early for a step says nothing new, and must not fill the next step's place.
        if output.at_rest or not _same_place(before, output):
            self._send(output)

    def _send(self, output: ControllerOutput) -> None:
        positions, velocities = output.joint_positions, output.joint_velocities
        accelerations, measured = output.joint_accelerations, self._measured
        if positions is None or velocities is None or accelerations is None or measured is None:
            return
        assert output.tool is not None
        motion = JointMotion(positions, velocities, accelerations)
        self._arm.send(ArmCommand(output.stamp_ns, self._core.period_s, motion, output.tool, measured))
        self._health.sent(output, self._now_ns())

    def _rests(self) -> bool:
        return self._output.at_rest

    def _stopped(self) -> None:
        """Send the first command of a stop at once, where a command says itself when it is due."""
        if self._profile.arm_backend.takes_times:
            self._loop.hurry()

    # Timers

    def _drive_gripper(self) -> None:
        opening = self._output.gripper_opening
        if opening is not None:
            self._gripper.send(GripperCommand(self._now_ns(), opening, self._finger_m))

    def _report(self) -> None:
        for part, failure in (
            ("control loop", self._loop.failure),
            ("stop thread", self._stops.failure),
        ):
            if failure is not None:
                # The process ends: the trajectory sent last brings the arm to rest.
                raise FatalNodeError(f"the {part} failed: {describe(failure)}")
        output = self._output
        frame = self._profile.arm.frame_prefix + self._profile.arm.base_link
        if output.target is not None:
            self._target_pose.publish(to_pose(output.target, output.stamp_ns, frame))
        with self._lock:
            measured = self._measured
        if measured is not None:
            pose = self._core.chain.forward(measured)
            self._current_pose.publish(to_pose(pose, output.stamp_ns, frame))
        self._verdicts.report(output)

    def _report_refusal(
        self, verdict: SafetyVerdict, source: str = "", chunk_stamp_ns: int | None = None
    ) -> None:
        self._verdicts.refuse(verdict, self._output, source, chunk_stamp_ns)

    # What it is made of

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _make_interface(self) -> None:
        self._verdicts = VerdictPublisher(self)
        self._target_pose = self.create_publisher(PoseStamped, "controller/target_pose", qos.STREAM_OUT)
        self._current_pose = self.create_publisher(PoseStamped, "controller/current_pose", qos.STREAM_OUT)
        rivals = Rivals(self._heed_rivals)
        topics = command_topics(self, self._profile, self.get_fully_qualified_name())
        self._rivals = RivalWatch(self, topics, partial(rivals.note, "commands"))
        self._state_sources = StateSources(self, "joint_states", rivals)
        self.create_subscription(
            JointState, "joint_states", self._joint_state, qos.NEWEST_IN, refused=self._state_refused
        )
        wrench = self._profile.state.wrench_topic
        if wrench is not None:
            self._wrench_sources = StateSources(self, wrench, rivals)
            self.create_subscription(WrenchStamped, wrench, self._wrench, qos.NEWEST_IN)
        self._make_services()
        self.create_timer(GRIPPER_PERIOD_S, self._drive_gripper)
        self.create_timer(REPORT_PERIOD_S, self._report)
        self.create_timer(CONNECT_PERIOD_S, self._links.connect)
        self._diagnostics = DiagnosticsPublisher(self, self._healths)

    def _heed_rivals(self, rivals: str | None) -> None:
        """Stop while somebody else commands the arm; hear chunks only once it is known who is there."""
        with self._lock:
            self._core.stand_back(rivals)
        if rivals is not None:
            self.get_logger().error(f"the arm is not moved: {rivals}")
        elif self._hears_chunks:
            self.get_logger().info("nobody else commands the arm any more: it is held")
        if self._hears_chunks:
            return
        self._hears_chunks = True
        chunks: tuple[tuple[str, Owner], ...] = (("policy", "policy"), ("teleop", "teleoperation"))
        for folder, owner in chunks:
            self._senders[owner] = ChunkSources(self, f"{folder}/action_chunk")
            self.create_subscription(
                JointTrajectory,
                f"{folder}/action_chunk",
                partial(self._chunk, owner),
                qos.COMMAND,
                largest_bytes=LARGEST_CHUNK_BYTES,
                refused=partial(self._chunk_refused, owner),
            )

    def _heed_driver(self, problem: str | None) -> None:
        """Stop while the arm must not be moved through its driver."""
        with self._lock:
            self._core.stand_back(problem, Reason.DRIVER)

    def _make_services(self) -> None:
        core = self._core
        for name, act, grant in (
            ("reset_e_stop", lambda: self._stops.reset(), Reason.HELD),
            ("home", lambda: core.go_to("home"), Reason.OK),
            ("neutral", lambda: core.go_to("neutral"), Reason.OK),
            ("park", lambda: core.go_to("park"), Reason.OK),
            ("give_to_policy", lambda: core.give_to("policy"), Reason.OK),
            ("ask_for_policy", lambda: core.ask_for_policy(self._hand()), Reason.OK),
            ("give_to_teleop", lambda: core.give_to("teleoperation"), Reason.OK),
            ("recover", self._recover, Reason.OK),
        ):
            self.create_service(Trigger, f"controller/{name}", self._serve(act, grant))

    def _healths(self) -> list[Health]:
        return [
            self._health.joint_states.health(self._now_ns()),
            self._loop.health(),
            self._health.safety(self._output),
            *self._health.ages(),
            *self._links.healths(),
        ]


def _same_place(one: ControllerOutput, other: ControllerOutput) -> bool:
    a, b = one.joint_positions, other.joint_positions
    return a is not None and b is not None and bool(np.array_equal(a, b))


def _with_mode(profile: RobotProfile, mode: str) -> RobotProfile:
    match mode:
        case "streaming":
            return replace(profile, control=replace(profile.control, mode="streaming"))
        case "blocking":
            return replace(profile, control=replace(profile.control, mode="blocking"))
        case _:
            return profile


def main() -> None:
    """Run the node."""
    process.main(ControllerNode)


if __name__ == "__main__":
    main()
