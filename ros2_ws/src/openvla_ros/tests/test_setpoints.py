"""Setpoints to a driver that takes nothing else: they brake when the controller is killed, and then end."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import ArmBackend, RobotProfile, dump_profile, load_profile
from openvla_ros.robot.braking import JointMotion, MotionLimiter, MotionLimits
from openvla_ros.robot.setpoints import LONGEST_GAP_S, REPEAT_S, SetpointPlayer
from openvla_ros.robot.trailing_stop import trailing_stop

PROFILE = load_profile("sim_widowx")
JOINTS = PROFILE.arm.joints
LIMITS = MotionLimits.from_profile(PROFILE.limits)
START = np.array(PROFILE.arm.neutral)
PERIOD_S, LOOKAHEAD_S = 0.01, 0.03


class Commander:
    """A controller that accelerates its joints, one message with a stop each period."""

    def __init__(self, player: SetpointPlayer) -> None:
        self.player, self.now_s = player, 1000.0
        self.limiter = MotionLimiter(LIMITS, PERIOD_S, target_stop_s=0.1)
        self.motion = JointMotion.at_rest(START)
        self.sent: list[np.ndarray] = []

    def command(self, periods: int) -> None:
        away = JointMotion.at_rest(START + 0.4)
        for _ in range(periods):
            self.motion = self.limiter.follow(self.motion, away)
            stop = trailing_stop(self.motion, LIMITS)
            self.player.follow(
                JOINTS, stop.times_s + LOOKAHEAD_S, stop.positions, stop.velocities, self.now_s, self.now_s
            )
            self.pass_time(1)

    def pass_time(self, periods: int) -> np.ndarray | None:
        for _ in range(periods):
            self.now_s += PERIOD_S
            setpoint = self.player.sample(self.now_s)
            if setpoint is not None:
                self.sent.append(setpoint)
        return setpoint


def test_setpoints_brake_within_the_limits_when_nobody_commands_any_more():
    commander = Commander(SetpointPlayer(JOINTS))
    commander.command(30)
    assert np.abs(commander.motion.velocity).max() > 0.5
    remaining_s = commander.player.remaining_s(commander.now_s)
    commander.pass_time(80)
    assert 0.2 < remaining_s < 0.8
    assert commander.player.remaining_s(commander.now_s) == 0.0
    end = trailing_stop(commander.motion, LIMITS)
    np.testing.assert_allclose(commander.sent[-1], end.positions[-1], atol=1e-12)
    assert np.abs(commander.sent[-1] - commander.motion.position).max() > 0.05  # it was not stopped dead
    speed = np.diff(commander.sent, axis=0) / PERIOD_S
    assert np.abs(np.diff(speed, axis=0) / PERIOD_S).max() < 1.3 * LIMITS.acceleration.max()


def test_there_are_no_setpoints_before_the_first_trajectory_and_after_the_last():
    player = SetpointPlayer(JOINTS)
    assert player.sample(1000.0) is None
    commander = Commander(player)
    commander.command(1)
    assert commander.pass_time(50) is not None
    assert commander.pass_time(round(REPEAT_S / PERIOD_S) + 1) is None


def test_a_trajectory_that_moves_already_is_not_joined_from_rest():
    player = SetpointPlayer(JOINTS)
    commander = Commander(player)
    commander.command(30)
    commander.now_s += 2 * LONGEST_GAP_S  # this side stood still: the driver has stopped the arm
    assert commander.pass_time(1) is None
    with pytest.raises(InvalidValueError, match="an arm at rest joins one that begins below"):
        commander.command(1)
    assert commander.pass_time(1) is None
    commander.motion = JointMotion.at_rest(START)
    commander.command(1)
    assert commander.sent[-1] == pytest.approx(START, abs=1e-4)


@pytest.mark.parametrize(
    ("names", "points"), [(JOINTS[:-1], START[None, :-1]), (("a", *JOINTS[1:]), START[None]), ((), START[:0])]
)
def test_a_trajectory_of_other_joints_is_refused(names, points):
    with pytest.raises(InvalidValueError):
        SetpointPlayer(JOINTS).follow(names, [0.01], points, 0.0 * points, 1.0, 1.0)


# Between processes


@pytest.fixture(scope="module")
def cell(ros_domain, tmp_path_factory) -> Iterator["DriverCell"]:
    pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")
    profile = replace(PROFILE, arm_backend=ArmBackend(kind="forward_position", topic="forward/commands"))
    path = tmp_path_factory.mktemp("setpoints") / "streamed.yaml"
    path.write_text(dump_profile(profile), encoding="utf-8")
    with DriverCell(profile, path) as cell:
        yield cell


class DriverCell:
    """A controller and a setpoint node as processes; the driver and the arm are the test's own node."""

    def __init__(self, profile: RobotProfile, path: Path) -> None:
        self.profile, self.path = profile, path
        self.setpoints: list[np.ndarray] = []
        self.q = START

    def __enter__(self):
        from contextlib import ExitStack

        from ros_harness import Listener, NodeProcess
        from sensor_msgs.msg import JointState
        from std_msgs.msg import Float64MultiArray
        from trajectory_msgs.msg import JointTrajectory

        from openvla_ros.nodes import qos

        self._stack = ExitStack()
        self.listener = self._stack.enter_context(Listener("driver"))
        node = self.listener.node
        node.create_subscription(Float64MultiArray, "forward/commands", self._command, qos.COMMAND)
        self._states = node.create_publisher(JointState, "joint_states", qos.STREAM_OUT)
        self._chunks = node.create_publisher(JointTrajectory, "policy/action_chunk", qos.COMMAND)
        node.create_timer(0.01, self._report)
        self.processes = {
            name: self._stack.enter_context(
                NodeProcess(f"openvla_ros.nodes.{name}_node", {"robot": self.path})
            )
            for name in ("setpoint", "controller")
        }
        assert self.listener.spin_until(self._is_connected, 120), self.logs()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def logs(self) -> str:
        return "".join(f"--- {name}\n{process.output[-2000:]}" for name, process in self.processes.items())

    def _is_connected(self) -> bool:
        node = self.listener.node
        return bool(
            self._chunks.get_subscription_count()
            and node.count_publishers("forward/commands")
            and "arm: connected" in self.processes["controller"].output
        )

    def _command(self, message) -> None:
        self.q = np.array(message.data)
        self.setpoints.append(self.q)

    def _report(self) -> None:
        from sensor_msgs.msg import JointState

        gripper = self.profile.gripper
        message = JointState(name=[*JOINTS, gripper.joint], position=[*self.q.tolist(), gripper.open_m])
        message.header.stamp = self.listener.node.get_clock().now().to_msg()
        self._states.publish(message)

    def drive(self, action: list[float], until: float) -> None:
        """Send the same action at the action rate until a joint has moved ``until`` rad."""
        from openvla_ros.action import ActionChunk
        from openvla_ros.nodes.messages import to_chunk_message

        start = self.q
        for _ in range(100):
            now_ns = self.listener.node.get_clock().now().nanoseconds
            chunk = ActionChunk(np.array([action]), now_ns, self.profile.space())
            self._chunks.publish(to_chunk_message(chunk, self.profile.action_frame_id()))
            if self.listener.spin_until(lambda: np.abs(self.q - start).max() > until, 0.2):
                return
        raise AssertionError(f"the arm does not move\n{self.logs()}")


@pytest.mark.ros
def test_the_arm_brakes_when_the_controller_is_killed_behind_a_driver_of_setpoints(cell):
    cell.drive([0.03, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], until=0.2)
    killed = len(cell.setpoints)
    cell.processes["controller"].process.send_signal(signal.SIGKILL)
    cell.listener.spin_until(lambda: False, 2.5)
    after = np.array(cell.setpoints[killed - 1 :])
    travelled = np.abs(after[-1] - after[0]).max()
    steps = np.abs(np.diff(after, axis=0)).max(axis=1)
    assert travelled > 0.01, "it was stopped dead"
    assert np.all(steps[-20:] == 0.0), "it does not rest"
    assert len(after) < 220, "setpoints go on after the arm rests"
    assert cell.processes["setpoint"].process.poll() is None


@pytest.mark.ros
def test_a_robot_with_trajectories_of_its_own_needs_no_setpoint_node(ros_domain):
    from ros_harness import NodeProcess

    with NodeProcess("openvla_ros.nodes.setpoint_node", {"robot": "sim_widowx"}) as process:
        assert process.process.wait(60) == 1
        assert "needs no setpoint node" in process.output
        assert "Traceback" not in process.output
