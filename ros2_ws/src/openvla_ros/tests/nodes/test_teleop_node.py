"""A person's hand over DDS: the arm changes owner at once and without a jump, and is given back on purpose.

The controller is the real node in a process of its own; this process plays the arm (it is where it
was told to be), the policy and the gamepad.
"""

import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped, Twist
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Bool
from support.node_processes import DISCOVERY_S, Listener, NodeProcess
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.profile import dump_profile, load_profile
from openvla_ros.ros import qos
from openvla_ros.ros.messages import from_chunk_message, to_chunk_message, to_stamp
from openvla_ros.ros.verdict_messages import from_verdict_message
from openvla_ros.values.action import ActionChunk

pytestmark = pytest.mark.ros

SIM = load_profile("sim_widowx")
# Generous ages: the machine that runs the tests may be busy.
PROFILE = replace(
    SIM,
    state=replace(SIM.state, max_age_s=3.0),
    control=replace(SIM.control, chunk_max_age_s=3.0, hold_after_s=3.0, dead_man_s=2.0),
)
SPACE = PROFILE.space()
LB, B, A = 4, 1, 0


class Bench(Listener):
    """Arm, policy and gamepad in one node."""

    def __init__(self):
        super().__init__("bench")
        self.positions = dict(zip(PROFILE.arm.joints, PROFILE.arm.neutral, strict=True))
        self.commands, self.verdicts, self.people, self.targets = [], [], [], []
        self.policy_runs, self.gripper = False, 1.0
        self.axes, self.buttons, self.joy_runs = [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0], [0] * 11, True
        self.twist = Twist()
        node = self.node
        self._states = node.create_publisher(JointState, "joint_states", qos.STREAM_OUT)
        self._policy = node.create_publisher(JointTrajectory, "policy/action_chunk", qos.COMMAND)
        self._joy = node.create_publisher(Joy, "joy", qos.COMMAND)
        self._twist = node.create_publisher(Twist, "spacenav/twist", qos.COMMAND)
        self.leader = node.create_publisher(JointState, "leader/joint_states", qos.STREAM_OUT)
        self.pedal = node.create_publisher(Bool, "teleop/dead_man", qos.COMMAND)
        # Deep enough that a busy machine loses none: differences of consecutive commands are looked at.
        every = QoSProfile(depth=2000, reliability=ReliabilityPolicy.RELIABLE)
        node.create_subscription(JointTrajectory, "arm_controller/joint_trajectory", self._command, every)
        node.create_subscription(DiagnosticStatus, "controller/verdict", self._verdict, qos.VERDICT)
        node.create_subscription(JointTrajectory, "teleop/action_chunk", self._person, qos.COMMAND)
        node.create_subscription(
            PoseStamped, "controller/target_pose", lambda m: self.targets.append(m), qos.COMMAND
        )
        node.create_timer(0.02, self._tick)
        node.create_timer(0.2, self._decide)

    def now_ns(self):
        return self.node.get_clock().now().nanoseconds

    def _command(self, message):
        values = dict(zip(message.joint_names, message.points[0].positions, strict=True))
        self.commands.append(np.array([values[name] for name in PROFILE.arm.joints]))
        self.positions |= values

    def _verdict(self, message):
        self.verdicts.append(from_verdict_message(message))

    def _person(self, message):
        self.people.append(from_chunk_message(message, SPACE, PROFILE.action_frame_id()))

    def _tick(self):
        names = [*PROFILE.arm.joints, PROFILE.gripper.joint]
        state = JointState(name=names, position=[*(self.positions[n] for n in PROFILE.arm.joints), 0.02])
        state.header.stamp = to_stamp(self.now_ns())
        self._states.publish(state)
        if self.joy_runs:
            self._joy.publish(Joy(axes=self.axes, buttons=self.buttons))
            self._twist.publish(self.twist)

    def _decide(self):
        if self.policy_runs:
            action = np.array([0.01, 0, 0, 0, 0, 0, self.gripper])
            chunk = ActionChunk(action[None], self.now_ns(), SPACE)
            self._policy.publish(to_chunk_message(chunk, PROFILE.action_frame_id()))

    def owner(self):
        return self.verdicts[-1].owner if self.verdicts else None

    def press(self, *buttons):
        self.buttons = [int(i in buttons) for i in range(11)]

    def wait(self, condition, what):
        assert self.spin_until(condition, 2 * DISCOVERY_S), what


@pytest.fixture(scope="module")
def profile_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("profile") / "patient.yaml"
    path.write_text(dump_profile(PROFILE))
    return path


def nodes(profile_file, **teleop):
    robot = {"robot": profile_file}
    return (
        NodeProcess("openvla_ros.nodes.controller_node", robot),
        NodeProcess("openvla_ros.nodes.teleop_node", {**robot, **teleop}),
    )


def test_a_device_that_nobody_publishes_is_told(ros_domain, profile_file):
    parameters = {"robot": profile_file, "device": "leader"}
    with NodeProcess("openvla_ros.nodes.teleop_node", parameters) as teleop, Listener() as listener:
        told = "nobody publishes /leader/joint_states: start the leader arm's driver"
        assert listener.spin_until(lambda: told in teleop.output, 40.0), teleop.output


@pytest.mark.timeout(300)
def test_taking_over_from_a_policy_and_giving_back(ros_domain, profile_file):
    controller, teleop = nodes(profile_file, device="gamepad")
    with controller, teleop, Bench() as bench:
        bench.gripper = 0.0  # the policy holds something
        bench.policy_runs = True
        bench.wait(lambda: len(bench.targets) > 20, controller.output)
        assert bench.owner() == "policy"
        assert not bench.people, "a hand that is off says nothing"
        start = len(bench.commands)

        bench.axes[1] = -1.0  # backwards
        bench.press(LB)
        bench.wait(lambda: bench.owner() == "teleoperation" and len(bench.people) > 4, teleop.output)
        for chunk in bench.people[:4]:
            assert np.all(chunk.actions >= SPACE.lower)
            assert np.all(chunk.actions <= SPACE.upper)
            assert chunk.actions[0, 0] < 0
            assert chunk.actions[0, 6] == 0.0, "the gripper opened by itself"
        refused = {v.source for v in bench.verdicts if v.chunk_stamp_ns is not None and v.owner != "policy"}
        assert "policy" in refused, "the policy's chunks are refused by name meanwhile"

        bench.press()  # let go
        bench.spin_for(0.5)
        count = len(bench.people)
        bench.spin_for(1.0)
        assert len(bench.people) == count
        assert bench.owner() == "teleoperation", "the arm went back by itself"

        bench.press(LB, A)
        bench.wait(lambda: bench.people[-1].actions[0, 6] == 1.0, "the gripper did not open")
        bench.press(B)
        bench.wait(lambda: bench.owner() == "policy", teleop.output)
        bench.spin_for(1.0)
        speed = np.abs(np.diff(np.array(bench.commands[start:]), axis=0)).max()
        limit = max(PROFILE.limits.joint_velocity) / PROFILE.control.rate_hz
        # A command that did not arrive here makes two steps of one; a jump would be far more.
        assert speed < 3.5 * limit, "the arm jumped"
        bench.joy_runs = False
        assert teleop.stop() == 0, teleop.output
        assert controller.stop() == 0, controller.output


@pytest.mark.timeout(300)
def test_a_gamepad_that_falls_silent_lets_go(ros_domain, profile_file):
    controller, teleop = nodes(profile_file, device="gamepad")
    with controller, teleop, Bench() as bench:
        bench.wait(lambda: bench.owner() == "policy", controller.output)
        bench.axes[1] = 1.0
        bench.press(LB)
        bench.wait(lambda: len(bench.people) > 2, teleop.output)
        # Chunks are refused until the controller has looked for a second one.
        bench.wait(lambda: bench.verdicts[-1].state == "executing", teleop.output)
        bench.joy_runs = False
        bench.spin_for(1.0)
        count = len(bench.people)
        bench.spin_for(1.0)
        assert len(bench.people) == count
        bench.wait(lambda: bench.verdicts[-1].verdict.reason == "dead_man", str(bench.verdicts[-1]))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("device", ["spacemouse", "leader"])
def test_the_other_topics_move_the_arm(ros_domain, profile_file, device):
    controller, teleop = nodes(profile_file, device=device)
    with controller, teleop, Bench() as bench:
        bench.wait(lambda: bench.owner() == "policy" and bench.commands is not None, controller.output)
        names = [*PROFILE.arm.joints, PROFILE.gripper.joint]
        begun = time.monotonic()

        def lead():
            moved = min(0.3, 0.05 * (time.monotonic() - begun))
            positions = [PROFILE.arm.neutral[0] + moved, *PROFILE.arm.neutral[1:], 0.03]
            bench.leader.publish(JointState(name=names, position=positions))
            bench.pedal.publish(Bool(data=True))

        if device == "leader":
            bench.node.create_timer(0.05, lead)
        else:
            bench.twist.linear.y = 0.8
        bench.wait(lambda: bench.owner() == "teleoperation" and len(bench.people) > 6, teleop.output)
        sideways = np.array([chunk.actions[0, 1] for chunk in bench.people[2:]])
        assert np.all(sideways >= 0)
        assert sideways.max() > 1e-4, "both move the tool to the left"


def test_a_keyboard_that_is_no_terminal_is_one_clear_line(ros_domain, profile_file):
    teleop = NodeProcess("openvla_ros.nodes.teleop_node", {"robot": profile_file, "device": "keyboard"})
    with teleop:
        assert teleop.process.wait(2 * DISCOVERY_S) == 1
        teleop.stop()
        assert "needs a terminal" in teleop.output
        assert "Traceback" not in teleop.output
