"""Teleoperation as a ROS 2 node: a person's input to action chunks in the robot's action space.

Pressing the dead man's switch takes the arm from the policy (``controller/give_to_teleop``) and starts
from the current target, with the gripper as last commanded: nothing jumps. Releasing it stops the arm;
only a deliberate key press hands the arm back to the policy.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.errors import DeviceError
from openvla_ros.nodes.teleop_topics import JoyTopic, LeaderTopic, SpacenavTopic
from openvla_ros.profile import load_profile
from openvla_ros.robot.authority import PERSON
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.ros import process, qos
from openvla_ros.ros.diagnostics import DiagnosticsPublisher
from openvla_ros.ros.guard import GuardedNode
from openvla_ros.ros.messages import from_pose, joint_position, to_chunk_message
from openvla_ros.ros.parameters import declare, parameter
from openvla_ros.ros.verdict_messages import from_verdict_message
from openvla_ros.teleop.command import Device, Event, TeleopCommand
from openvla_ros.teleop.gamepad import JoystickDevice
from openvla_ros.teleop.keyboard import Keyboard
from openvla_ros.teleop.leader import LeaderArm
from openvla_ros.teleop.spacemouse import SpaceMouseDevice
from openvla_ros.teleop.teleoperator import Teleoperator
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose
from openvla_ros.values.health import Health
from openvla_ros.values.verdict import Reason

DEVICES = ("keyboard", "gamepad", "spacemouse", "leader")
# Devices that are read from a topic → that topic, and what publishes it.
DRIVERS = {
    "gamepad": ("joy", "joy's joy_node, or read the device directly (path auto)"),
    "spacemouse": ("spacenav/twist", "spacenav's spacenav_node, or read the device directly (path auto)"),
    "leader": ("leader/joint_states", "the leader arm's driver"),
}
POLL_S, WARN_S = 0.02, 2.0
# An older target pose is no longer current: the controller publishes it only while it executes.
TARGET_S = 0.2
SERVICES: dict[Event, str] = {
    "give_back": "controller/give_to_policy",
    "hold": "controller/hold",
    "e_stop": "controller/e_stop",
    "success": "recorder/stop_success",
    "failure": "recorder/stop_failure",
    "discard": "recorder/discard",
    "rerecord": "recorder/rerecord",
}
TAKE = "controller/give_to_teleop"
LATCHED_STOPS = (Reason.HELD, Reason.E_STOP, Reason.RIVAL)
START = "recorder/start"


@dataclass(frozen=True)
class TeleopParameters:
    """The node's parameters."""

    robot: str = parameter("sim_widowx", "robot profile: a name or a YAML file", read_only=True)
    device: str = parameter("keyboard", "the input device", read_only=True, choices=DEVICES)
    path: str = parameter(
        "", "device file of a gamepad or SpaceMouse, or auto; empty: the topics joy, spacenav", read_only=True
    )
    leader_robot: str = parameter("", "profile of the leader arm; empty: the robot's own", read_only=True)


class TeleopNode(GuardedNode):
    """Turns one device's input into action chunks."""

    def __init__(self, **overrides: str) -> None:
        super().__init__("teleop")
        settings = declare(self, TeleopParameters)
        self._settings = TeleopParameters(**{**vars(settings), **overrides})
        self._profile = load_profile(self._settings.robot)
        self._space = self._profile.space()
        self._teleoperator = Teleoperator(self._space)
        self._target: tuple[Pose, float] | None = None
        self._measured: Pose | None = None
        self._opening = 1.0  # as measured
        self._commanded: float | None = None  # as the policy commanded it last
        self._owner = ""
        self._stopped = False  # a stop is latched: chunks are refused until the arm is given to somebody
        self._asked = False  # for the arm; the answer has not come
        self._held = False
        self._recording = False
        self._published_s = 0.0
        self._connect()
        self._leader: LeaderArm | None = None
        self._device = self._open()
        self.get_logger().info(f"{self._settings.device} moves {self._profile.name}\n{self._device.help}")
        self.create_timer(POLL_S, self._poll)
        self.create_timer(WARN_S, self._warn)
        self._diagnostics = DiagnosticsPublisher(self, lambda: [self._health()])

    def stop(self) -> None:
        """Release the device; without chunks, the controller stops the arm by itself."""
        self._device.close()

    def _open(self) -> Device:
        path = self._settings.path
        file = None if path in ("", "auto") else Path(path)
        match self._settings.device:
            case "keyboard":
                return Keyboard()
            case "gamepad":
                return JoystickDevice(file) if path else JoyTopic(self)
            case "spacemouse":
                return SpaceMouseDevice(file) if path else SpacenavTopic(self)
            case "leader":
                leader = load_profile(self._settings.leader_robot or self._settings.robot)
                self._leader = LeaderArm(self._space, KinematicChain.from_profile(leader.arm).forward)
                return LeaderTopic(self, leader)
        raise DeviceError(f"device {self._settings.device!r} is not one of {', '.join(DEVICES)}")

    def _connect(self) -> None:
        self._chunks = self.create_publisher(JointTrajectory, "teleop/action_chunk", qos.COMMAND)
        self.create_subscription(PoseStamped, "controller/target_pose", self._note_target, qos.NEWEST_IN)
        self.create_subscription(PoseStamped, "controller/current_pose", self._note_pose, qos.NEWEST_IN)
        self.create_subscription(DiagnosticStatus, "controller/verdict", self._note_verdict, qos.VERDICT)
        self.create_subscription(JointState, "joint_states", self._note_state, qos.NEWEST_IN)
        self.create_subscription(JointTrajectory, "policy/action_chunk", self._note_chunk, qos.NEWEST_IN)
        names = [TAKE, START, *SERVICES.values()]
        self._services_asked = {name: self.create_client(Trigger, name) for name in names}

    # The hand

    def _poll(self) -> None:
        now_s = time.monotonic()
        command = self._device.read(now_s)
        before = (self._teleoperator.frame, self._teleoperator.speed, self._teleoperator.opening)
        self._teleoperator.choose(command)
        after = (self._teleoperator.frame, self._teleoperator.speed, self._teleoperator.opening)
        if after != before:
            gripper = "open" if after[2] > 0.5 else "closed"
            self.get_logger().info(f"{after[0]} frame, speed {after[1]:.0%}, gripper {gripper}")
        for event in command.events:
            self._serve(event)
        if command.held and not self._held:
            self._take()
        self._held = command.held
        if self._owner == PERSON and now_s - self._published_s >= self._space.step_s - POLL_S / 2:
            self._publish(command, now_s)

    def _take(self) -> None:
        """Take the arm, or go on after a stop, and keep the gripper as last commanded.

        A stop that only somebody else can end (an emergency stop) is told with the answer.
        """
        if self._asked or (self._owner == PERSON and not self._stopped):
            return
        closed = self._commanded if self._commanded is not None else self._opening
        self._teleoperator.opening = 1.0 if closed > self._profile.gripper.threshold else 0.0
        self._asked = self._call(TAKE, self._taken)

    def _taken(self, future: Future) -> None:
        self._asked = False
        response = future.result()
        if response is not None and response.success:
            self._owner, self._stopped = PERSON, False
            self.get_logger().info("you have control of the arm")
        elif response is not None:
            self.get_logger().error(f"control was refused: {response.message}")

    def _publish(self, command: TeleopCommand, now_s: float) -> None:
        tool = self._tool(now_s)
        if tool is None:
            return
        action = self._action(command, tool)
        if action is None:
            return
        self._published_s = now_s
        chunk = ActionChunk(action[None], int(self.get_clock().now().nanoseconds), self._space)
        self._chunks.publish(to_chunk_message(chunk, self._profile.action_frame_id()))

    def _action(self, command: TeleopCommand, tool: Pose) -> Float | None:
        if self._leader is None or not isinstance(self._device, LeaderTopic):
            return self._teleoperator.action(command, tool)
        joints = self._device.joints()
        if joints is None:
            return None
        return self._leader.action(command.held, joints[0], joints[1], tool)

    def _tool(self, now_s: float) -> Pose | None:
        """Return the commanded tool pose, or the measured one if nothing is commanded."""
        if self._target is not None and now_s - self._target[1] < TARGET_S:
            return self._target[0]
        return self._measured

    # Presses

    def _serve(self, event: Event) -> None:
        if event == "start":
            done = partial(self._answered, event)
            self._call(SERVICES["success"] if self._recording else START, done)
        elif event in SERVICES:
            self._call(SERVICES[event], partial(self._answered, event))

    def _answered(self, event: Event, future: Future) -> None:
        response = future.result()
        if response is None:
            return
        text = f"{event}: {response.message or 'done'}"
        # One call site per severity: rclpy does not allow changing it.
        if not response.success:
            self.get_logger().error(text)
            return
        self.get_logger().info(text)
        match event:
            case "start":
                self._recording = not self._recording
            case "success" | "failure" | "discard":
                self._recording = False
            case "rerecord":
                self._recording = True

    def _call(self, name: str, done: object) -> bool:
        """Call a service without waiting; return whether it is available."""
        client = self._services_asked[name]
        if not client.service_is_ready():
            self.get_logger().error(f"service {name} is not available", throttle_duration_sec=1.0)
            return False
        client.call_async(Trigger.Request()).add_done_callback(done)
        return True

    # What the robot says

    def _note_target(self, message: PoseStamped) -> None:
        self._target = (from_pose(message), time.monotonic())

    def _note_pose(self, message: PoseStamped) -> None:
        self._measured = from_pose(message)

    def _note_verdict(self, message: DiagnosticStatus) -> None:
        report = from_verdict_message(message)
        self._owner = report.owner
        if report.verdict.reason in LATCHED_STOPS and (report.kind == "state" or report.source == PERSON):
            self._stopped = True
        elif report.verdict.commands:
            self._stopped = False

    def _note_state(self, message: JointState) -> None:
        position = joint_position(message, self._profile.gripper.joint)
        if position is not None:
            self._opening = self._profile.gripper.opening(position)

    def _note_chunk(self, message: JointTrajectory) -> None:
        last = len(self._space.names) - 1
        if not message.points or len(message.points[0].positions) <= last:
            return
        command = float(message.points[0].positions[last])
        if math.isfinite(command):
            self._commanded = self._space.opening(command)

    def _silent_device(self) -> str:
        """Return which driver to start if nobody publishes the device's topic; else an empty string."""
        topic, driver = DRIVERS.get(self._settings.device, ("", ""))
        if not topic or self._settings.path or self.count_publishers(topic):
            return ""
        return f"nobody publishes {self.resolve_topic_name(topic)}: start {driver}"

    def _warn(self) -> None:
        if silent := self._silent_device():
            self.get_logger().warning(silent, throttle_duration_sec=10.0)

    def _health(self) -> Health:
        t = self._teleoperator
        values = {"owner": self._owner, "frame": t.frame, "speed": f"{t.speed:g}", "held": str(self._held)}
        if not self._owner:
            return Health("teleoperation", "error", "no controller", values)
        if silent := self._silent_device():
            return Health("teleoperation", "error", silent, values)
        return Health("teleoperation", "ok", "moving" if self._held else "idle", values)


def main() -> None:
    """Run the node."""
    process.main(TeleopNode)


if __name__ == "__main__":
    main()
