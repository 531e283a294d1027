"""The controller as a ROS 2 node: chunks in, joint commands out, and every refusal with its reason.

What is decided is decided in ``robot.controller.ArmController``. Here the messages become values,
a thread beside the executor ticks at the control rate, and the profile's back ends speak to the
robot. The node outlives the policy and the cameras; it commands nothing until something was asked
of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped, WrenchStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.arrays import Float
from openvla_ros.errors import InvalidValueError
from openvla_ros.health import Health, Level, StreamHealth
from openvla_ros.nodes import process, qos
from openvla_ros.nodes.backends.choice import make_arm, make_gripper, make_recovery
from openvla_ros.nodes.backends.command import ArmCommand, GripperCommand
from openvla_ros.nodes.control_loop import ControlLoop
from openvla_ros.nodes.diagnostics import DiagnosticsPublisher
from openvla_ros.nodes.messages import NS_PER_S, from_stamp, joint_values, to_pose, to_received_chunk
from openvla_ros.nodes.parameters import declare, parameter
from openvla_ros.nodes.verdict_message import ORDINARY, VerdictReport, state_report, to_verdict_message
from openvla_ros.profile import RobotProfile, load_profile
from openvla_ros.robot.authority import Owner
from openvla_ros.robot.braking import JointMotion
from openvla_ros.robot.command_age import CommandAge
from openvla_ros.robot.controller import ArmController
from openvla_ros.robot.output import ControllerOutput
from openvla_ros.verdict import Reason, SafetyVerdict

GRIPPER_PERIOD_S = 0.02  # bridge_data_robot drives its gripper 50 times a second
REPORT_PERIOD_S = 0.02  # poses, and changes of the verdict
VERDICT_PERIOD_S = 0.5  # an unchanged verdict is repeated so often
REFUSAL_PERIOD_S = 0.1  # the same refusal is published so often at most
CONNECT_PERIOD_S = 0.5
# How long the last stop may take: the slowest joint from full speed, with a wide margin.
STOP_S = 3.0
# How long the robot's side may take to acknowledge the last command: longer than a driver's hiccup.
DELIVERY_S = 2.0


@dataclass(frozen=True)
class ControllerParameters:
    """What an operator sets; limits, rates and topics come from the profile."""

    robot: str = parameter("sim_widowx", "robot profile: a name or a YAML file", read_only=True)
    mode: str = parameter(
        "profile", "how chunks are executed", read_only=True, choices=("profile", "streaming", "blocking")
    )


class ControllerNode(Node):
    """Moves one arm, within its limits, for one owner at a time."""

    def __init__(self) -> None:
        super().__init__("controller")
        settings = declare(self, ControllerParameters)
        self._profile = _with_mode(load_profile(settings.robot), settings.mode)
        self._core = ArmController(self._profile)
        self._lock = threading.Lock()  # of the core, and of what the control thread reads
        self._arm = make_arm(self, self._profile)
        self._gripper = make_gripper(self, self._profile)
        self._recovery = make_recovery(self, self._profile)
        self._problems: dict[str, str | None] = {"arm": "not looked for yet", "gripper": "not looked for yet"}
        self._output = self._core.tick(self._now_ns())
        self._measured: Float | None = None  # (J,) rad
        self._finger_m: float | None = None
        self._e_stop_asked = False  # the topic's last word
        self._e_stop_latched = False  # whether a latched publisher of it is listened to
        self._reported: tuple[VerdictReport, int] | None = None
        self._refused: tuple[Reason, int] | None = None
        self._streams = self._make_streams()
        limit_s = self._profile.control.chunk_max_age_s
        self._ages: dict[Owner, CommandAge] = {
            "policy": CommandAge("camera to command", limit_s),
            "teleoperation": CommandAge("hand to command", limit_s),
        }
        self._make_interface()
        simulated = bool(self.get_parameter("use_sim_time").value)
        self._loop = ControlLoop(self._core.period_s, self._tick, self.get_clock(), simulated)
        self._loop.start()

    def stop(self) -> None:
        """End the control thread, bring the arm to rest from here, and see the hold delivered. Called once.

        Nothing is received any more, so a simulated clock stands still: the periods are counted.
        """
        if not self._loop.stop():
            self.get_logger().error("the control thread did not end")
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
        self._publish_verdict(self._output)
        if not self._arm.delivered(DELIVERY_S):
            self.get_logger().warning(
                f"the robot did not acknowledge the last command within {DELIVERY_S:.0f} s"
            )

    # Messages in

    def _joint_state(self, message: JointState) -> None:
        now_ns, stamp_ns = self._now_ns(), from_stamp(message.header.stamp)
        finger = self._profile.gripper.joint
        if finger in message.name:
            self._finger_m = float(joint_values(message, [finger])[0])
        if not set(self._profile.arm.joints) & set(message.name):
            return  # a driver that reports the gripper by itself
        self._streams["joint states"].received(stamp_ns, now_ns)
        try:
            positions, velocities, effort = self._arm_values(message)
        except InvalidValueError as error:
            self._report_refusal(SafetyVerdict.hold(Reason.STATE_INVALID, str(error)))
            return
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

    def _wrench(self, message: WrenchStamped) -> None:
        f, t, stamp_ns = message.wrench.force, message.wrench.torque, from_stamp(message.header.stamp)
        with self._lock:
            verdict = self._core.observe_wrench([f.x, f.y, f.z], [t.x, t.y, t.z], stamp_ns, self._now_ns())
        self._report_refusal(verdict)

    def _chunk(self, source: Owner, message: JointTrajectory) -> None:
        now_ns = self._now_ns()
        self._streams[f"chunks of {source}"].received(from_stamp(message.header.stamp), now_ns)
        chunk = to_received_chunk(message, self._core_space)
        with self._lock:
            verdict = self._core.accept(chunk, source, now_ns)
        self._report_refusal(verdict, source, chunk.stamp_ns)

    def _e_stop_topic(self, message: Bool) -> None:
        if message.data and not self._e_stop_asked:
            with self._lock:
                self._core.e_stop("the topic e_stop")
        self._e_stop_asked = message.data

    def _hear_latched_e_stop(self) -> None:
        """Also subscribe to what a latched button said before, once there is one.

        A latched subscription alone would not hear a button that is not latched.
        """
        buttons = [] if self._e_stop_latched else self.get_publishers_info_by_topic("e_stop")
        if any(b.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for b in buttons):
            self._e_stop_latched = True
            self.create_subscription(Bool, "e_stop", self._e_stop_topic, qos.LATCHED)

    # Services

    def _reset_e_stop(self) -> SafetyVerdict:
        if self._e_stop_asked:
            return SafetyVerdict.hold(Reason.E_STOP, "the topic e_stop still says true")
        return self._core.reset_e_stop()

    def _recover(self) -> SafetyVerdict:
        if self._recovery is None:
            return SafetyVerdict.hold(
                Reason.WAITING, f"the profile {self._profile.name!r} names no arm_backend.recovery_action"
            )
        problem = self._recovery.recover()
        return SafetyVerdict.hold(Reason.WAITING, problem) if problem else SafetyVerdict.command()

    def _serve(self, act: Callable[[], SafetyVerdict], grant: Reason) -> Callable[..., Trigger.Response]:
        """Return the callback of a service; a hold for the reason ``grant`` is what was asked for."""

        def callback(_request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            with self._lock:
                verdict = act()
            response.success = verdict.commands or verdict.reason is grant
            response.message = str(verdict)
            if not response.success:
                self._report_refusal(verdict)
            return response

        return callback

    # The control thread

    def _tick(self) -> None:
        with self._lock:
            before, self._output = self._output, self._core.tick(self._now_ns())
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
        sent_ns = self._now_ns()
        for owner, age in self._ages.items():
            age.sent(output.observation_ns if owner == output.owner else None, sent_ns)

    # Timers

    def _drive_gripper(self) -> None:
        opening = self._output.gripper_opening
        if opening is not None:
            self._gripper.send(GripperCommand(self._now_ns(), opening, self._finger_m))

    def _connect(self) -> None:
        self._hear_latched_e_stop()
        for part, adapter in (("arm", self._arm), ("gripper", self._gripper)):
            problem = adapter.connect()
            if problem != self._problems[part]:
                self._problems[part] = problem
                text = f"{part}: {problem or 'connected'}"
                # One call site a severity: rclpy refuses the same line with another.
                if problem:
                    self.get_logger().warning(text)
                else:
                    self.get_logger().info(text)

    def _report(self) -> None:
        if self._loop.failure is not None:
            raise self._loop.failure  # the process ends: the trajectory sent last brings the arm to rest
        output = self._output
        frame = self._profile.arm.frame_prefix + self._profile.arm.base_link
        if output.target is not None:
            self._target_pose.publish(to_pose(output.target, output.stamp_ns, frame))
        with self._lock:
            measured = self._measured
        if measured is not None:
            pose = self._core.chain.forward(measured)
            self._current_pose.publish(to_pose(pose, output.stamp_ns, frame))
        reported = self._reported
        if (
            reported is None
            or reported[0] != state_report(output)
            or self._is_past(reported[1], VERDICT_PERIOD_S)
        ):
            self._publish_verdict(output)

    def _publish_verdict(self, output: ControllerOutput) -> None:
        report = state_report(output)
        self._reported = (report, self._now_ns())
        self._verdict.publish(to_verdict_message(report))

    def _report_refusal(
        self, verdict: SafetyVerdict, source: str = "", chunk_stamp_ns: int | None = None
    ) -> None:
        """Publish a refusal, unless the same reason was published a moment ago.

        Those of chunks follow each other more closely: a recording must tell which were executed.
        """
        if verdict.commands:
            return
        same = self._refused is not None and self._refused[0] is verdict.reason
        period_s = REFUSAL_PERIOD_S if chunk_stamp_ns is None else REPORT_PERIOD_S
        if self._refused is not None and same and not self._is_past(self._refused[1], period_s):
            return
        self._refused = (verdict.reason, self._now_ns())
        output = self._output
        report = VerdictReport(
            "refusal", verdict, str(output.state), output.owner, output.settled, source, chunk_stamp_ns
        )
        self._verdict.publish(to_verdict_message(report))

    # What it is made of

    def _is_past(self, since_ns: int, period_s: float) -> bool:
        """Whether ``period_s`` have passed, or the clock was set back."""
        return not 0 <= self._now_ns() - since_ns < period_s * NS_PER_S

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _make_streams(self) -> dict[str, StreamHealth]:
        state, control = self._profile.state, self._profile.control
        rate_hz = self._profile.action_space.rate_hz
        self._core_space = self._profile.space()
        return {
            "joint states": StreamHealth("joint states", state.rate_hz, state.max_age_s),
            **{
                f"chunks of {owner}": StreamHealth(f"chunks of {owner}", rate_hz, control.hold_after_s)
                for owner in ("policy", "teleoperation")
            },
        }

    def _make_interface(self) -> None:
        self._verdict = self.create_publisher(DiagnosticStatus, "controller/verdict", qos.VERDICT)
        self._target_pose = self.create_publisher(PoseStamped, "controller/target_pose", qos.STREAM_OUT)
        self._current_pose = self.create_publisher(PoseStamped, "controller/current_pose", qos.STREAM_OUT)
        self.create_subscription(JointState, "joint_states", self._joint_state, qos.NEWEST_IN)
        chunks: tuple[tuple[str, Owner], ...] = (("policy", "policy"), ("teleop", "teleoperation"))
        for folder, owner in chunks:
            callback = partial(self._chunk, owner)
            self.create_subscription(JointTrajectory, f"{folder}/action_chunk", callback, qos.COMMAND)
        self.create_subscription(Bool, "e_stop", self._e_stop_topic, qos.COMMAND)
        wrench = self._profile.state.wrench_topic
        if wrench is not None:
            self.create_subscription(WrenchStamped, wrench, self._wrench, qos.NEWEST_IN)
        self._make_services()
        self.create_timer(GRIPPER_PERIOD_S, self._drive_gripper)
        self.create_timer(REPORT_PERIOD_S, self._report)
        self.create_timer(CONNECT_PERIOD_S, self._connect)
        self._diagnostics = DiagnosticsPublisher(self, self._healths)

    def _make_services(self) -> None:
        core = self._core
        for name, act, grant in (
            ("hold", core.hold, Reason.HELD),
            ("e_stop", lambda: core.e_stop("the service e_stop"), Reason.E_STOP),
            ("reset_e_stop", self._reset_e_stop, Reason.HELD),
            ("home", lambda: core.go_to("home"), Reason.OK),
            ("neutral", lambda: core.go_to("neutral"), Reason.OK),
            ("park", lambda: core.go_to("park"), Reason.OK),
            ("give_to_policy", lambda: core.give_to("policy"), Reason.OK),
            ("give_to_teleop", lambda: core.give_to("teleoperation"), Reason.OK),
            ("recover", self._recover, Reason.OK),
        ):
            self.create_service(Trigger, f"controller/{name}", self._serve(act, grant))

    def _healths(self) -> list[Health]:
        now_ns = self._now_ns()
        healths = [self._streams["joint states"].health(now_ns), self._loop.health(), self._safety()]
        healths += [age.health() for age in self._ages.values()]
        for part, problem in self._problems.items():
            kind = getattr(self._profile, f"{part}_backend").kind
            level: Level = "error" if problem else "ok"
            healths.append(Health(f"{part} back end", level, problem or "connected", {"kind": kind}))
        return healths

    def _safety(self) -> Health:
        output = self._output
        verdict = output.verdict
        level: Level = "ok" if verdict.reason in ORDINARY else "warn" if verdict.commands else "error"
        values = {"state": str(output.state), "owner": output.owner, "reason": str(verdict.reason)}
        values |= {f"count/{reason}": str(count) for reason, count in sorted(output.counters.items())}
        for owner in ("policy", "teleoperation"):
            values[f"chunks of {owner}"] = str(self._streams[f"chunks of {owner}"].received_count)
        return Health("safety", level, str(verdict), values)


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
