"""Setpoints to a driver that takes nothing else: they brake when the controller is killed, and then end."""

import random
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.setpoint_checker import SetpointCheck

from openvla_ros.driver_profile import ArmBackend
from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import RobotProfile, dump_profile, load_profile
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimiter, MotionLimits
from openvla_ros.robot.motion.setpoint_player import (
    LEASH_RAD,
    LONGEST_GAP_S,
    REPEAT_S,
    STANCE_S,
    START_RAD_S,
    SetpointPlayer,
)
from openvla_ros.robot.motion.stop_trajectory import trailing_stop
from openvla_ros.robot.motion.streamed_trajectory import StreamedTrajectory, TrajectoryStream

PROFILE = load_profile("sim_widowx")
JOINTS = PROFILE.arm.joints
LIMITS = MotionLimits.from_profile(PROFILE.limits)
START = np.array(PROFILE.arm.neutral)
AWAY = START + np.array([1.2, 1.2, 0.8, 1.2, -1.2, 1.2])
PERIOD_S, LOOKAHEAD_S = 0.01, 0.03


def make_player(reasons: list[str] | None = None) -> SetpointPlayer:
    reasons = [] if reasons is None else reasons
    tracking_rad = PROFILE.limits.tracking_error_rad
    return SetpointPlayer(JOINTS, LIMITS, PERIOD_S, tracking_rad, lambda reason, text: reasons.append(reason))


class Commander:
    """A controller that accelerates its joints, one message with a stop each period."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.player, self.now_s = make_player(self.reasons), 1000.0
        self.limiter = MotionLimiter(LIMITS, PERIOD_S, target_stop_s=0.1)
        self.stream = TrajectoryStream(LIMITS, LOOKAHEAD_S)
        self.motion = JointMotion.at_rest(START)
        self.motions: list[np.ndarray] = []
        self.sent: list[np.ndarray] = []

    def message(self) -> StreamedTrajectory:
        self.motion = self.limiter.follow(self.motion, JointMotion.at_rest(AWAY))
        self.motions.append(self.motion.position)
        return self.stream.next(round(self.now_s * 1e9), PERIOD_S, self.motion)

    def deliver(self, message: StreamedTrajectory) -> None:
        self.player.follow(
            JOINTS, message.times_s, list(message.positions), list(message.velocities),
            message.stamp_ns * 1e-9, self.now_s,
        )  # fmt: skip

    def command(self, periods: int) -> None:
        for _ in range(periods):
            self.deliver(self.message())
            self.pass_time(1)

    def pass_time(self, periods: int) -> np.ndarray | None:
        for _ in range(periods):
            self.now_s += PERIOD_S
            setpoint = self.player.sample(self.now_s)
            if setpoint is not None:
                self.sent.append(setpoint)
        return setpoint

    def check(self) -> None:
        for order, limit in enumerate((LIMITS.velocity, LIMITS.acceleration, LIMITS.jerk), start=1):
            rate = np.diff(self.sent, n=order, axis=0) / PERIOD_S**order
            assert np.all(np.abs(rate) <= limit * (1 + 2e-5))


def test_setpoints_brake_within_the_limits_when_nobody_commands_any_more():
    commander = Commander()
    commander.command(30)
    assert np.abs(commander.motion.velocity).max() > 0.5
    remaining_s = commander.player.remaining_s(commander.now_s)
    commander.pass_time(80)
    assert 0.2 < remaining_s < 0.8
    assert commander.player.remaining_s(commander.now_s) == 0.0
    end = trailing_stop(commander.motion, LIMITS)
    np.testing.assert_allclose(commander.sent[-1], end.positions[-1], atol=1e-9)
    assert np.abs(commander.sent[-1] - commander.motion.position).max() > 0.05  # it was not stopped dead
    commander.check()


def test_a_motion_within_the_limits_is_handed_through_as_it_is():
    commander = Commander()
    commander.command(200)
    sent, motions = np.array(commander.sent), np.array(commander.motions)
    begins = [int(np.argmax(np.abs(rows - START).max(axis=1) > 1e-9)) for rows in (sent, motions)]
    count = min(len(sent) - begins[0], len(motions) - begins[1])
    np.testing.assert_allclose(sent[begins[0] :][:count], motions[begins[1] :][:count], atol=1e-9)
    assert 0 <= begins[0] - begins[1] <= round(LOOKAHEAD_S / PERIOD_S)
    assert not commander.reasons


def test_there_are_no_setpoints_before_the_first_trajectory_and_after_the_last():
    assert make_player().sample(1000.0) is None
    commander = Commander()
    commander.command(1)
    assert commander.pass_time(50) is not None
    assert commander.pass_time(round(REPEAT_S / PERIOD_S) + 1) is None


@pytest.mark.parametrize("periods", [4, 6])
def test_a_late_trajectory_is_caught_up_with_within_the_limits(periods):
    commander = Commander()
    commander.command(25)
    late = [commander.message()]
    for _ in range(periods - 1):  # received by nobody
        commander.pass_time(1)
        late.append(commander.message())
    commander.deliver(late[-1])
    commander.command(40)
    commander.pass_time(100)
    assert "blended" in commander.reasons
    np.testing.assert_allclose(
        commander.sent[-1], trailing_stop(commander.motion, LIMITS).positions[-1], atol=1e-6
    )
    commander.check()


def test_a_trajectory_too_far_away_is_refused_and_the_stop_goes_on():
    commander = Commander()
    commander.command(25)
    for _ in range(50):
        commander.message()
        commander.pass_time(1)
    far = np.abs(commander.motion.position - commander.sent[-1]).max()
    assert far > LEASH_RAD
    with pytest.raises(InvalidValueError, match="from the last setpoint"):
        commander.deliver(commander.message())
    commander.pass_time(50)
    commander.check()


def test_a_trajectory_that_is_over_is_refused():
    commander = Commander()
    message = commander.message()
    commander.now_s += 10.0
    with pytest.raises(InvalidValueError, match="ended"):
        commander.deliver(message)


def test_after_a_gap_the_setpoints_begin_at_rest_at_the_last_one():
    commander = Commander()
    commander.command(20)
    held = commander.sent[-1]
    commander.now_s += LONGEST_GAP_S
    commander.sent = [held] * 3
    commander.pass_time(100)
    assert "held" in commander.reasons
    commander.check()


def test_a_setpoint_that_could_not_be_sent_in_time_is_taken_back():
    commander = Commander()
    commander.command(20)
    held = commander.sent[-1]
    commander.now_s += PERIOD_S
    assert np.abs(commander.player.sample(commander.now_s) - held).max() > 1e-3
    np.testing.assert_array_equal(commander.player.withdraw(), held)
    commander.sent = [held] * 3
    commander.pass_time(100)
    commander.check()


def test_a_trajectory_that_moves_already_is_not_joined_from_rest():
    commander = Commander()
    for _ in range(30):
        message = commander.message()
        commander.now_s += PERIOD_S
    with pytest.raises(InvalidValueError, match=f"can join one that starts below {START_RAD_S}"):
        commander.deliver(message)
    assert commander.pass_time(1) is None


def test_an_arm_is_taken_up_elsewhere_only_where_it_was_seen_to_stand():
    commander = Commander()
    commander.command(5)
    commander.pass_time(200)
    away = START + 1.0
    there = (JOINTS, [0.1], [away], [np.zeros(6)])
    with pytest.raises(InvalidValueError, match="from the arm"):
        commander.player.follow(*there, commander.now_s, commander.now_s)
    for _ in range(round(STANCE_S / PERIOD_S) + 2):
        commander.now_s += PERIOD_S
        commander.player.observe(away, commander.now_s)
    commander.player.follow(*there, commander.now_s, commander.now_s)
    assert commander.pass_time(1) == pytest.approx(away)


@pytest.mark.parametrize(
    ("names", "points"), [(JOINTS[:-1], START[None, :-1]), (("a", *JOINTS[1:]), START[None]), ((), START[:0])]
)
def test_a_trajectory_of_other_joints_is_refused(names, points):
    with pytest.raises(InvalidValueError):
        make_player().follow(names, [0.01], points, 0.0 * points, 1.0, 1.0)


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
        self.arrivals: list[tuple[float, np.ndarray]] = []
        self.q = START

    def __enter__(self):
        from contextlib import ExitStack

        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import JointState
        from std_msgs.msg import Float64MultiArray
        from support.node_processes import Listener
        from trajectory_msgs.msg import JointTrajectory

        from openvla_ros.ros import qos

        self._stack = ExitStack()
        self.listener = self._stack.enter_context(Listener("driver"))
        node = self.listener.node
        every = QoSProfile(depth=2000, reliability=ReliabilityPolicy.RELIABLE)
        node.create_subscription(Float64MultiArray, "forward/commands", self._command, every)
        self._states = node.create_publisher(JointState, "joint_states", qos.STREAM_OUT)
        self._chunks = node.create_publisher(JointTrajectory, "policy/action_chunk", qos.COMMAND)
        node.create_timer(0.01, self._report)
        self.processes = {}
        self.restart()
        return self

    def restart(self) -> None:
        """Start what does not run."""
        from support.node_processes import NodeProcess

        for name in ("setpoint", "controller"):
            if name not in self.processes or self.processes[name].process.poll() is not None:
                process = NodeProcess(f"openvla_ros.nodes.{name}_node", {"robot": self.path})
                self.processes[name] = self._stack.enter_context(process)
        assert self.listener.spin_until(self._is_connected, 120), self.logs()

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

    def _command(self, message, info) -> None:
        self.q = np.array(message.data)
        self.setpoints.append(self.q)
        # When it left the setpoint node: this process may be late itself.
        self.arrivals.append((info["source_timestamp"] * 1e-9, self.q))

    def _report(self) -> None:
        from sensor_msgs.msg import JointState

        gripper = self.profile.gripper
        message = JointState(name=[*JOINTS, gripper.joint], position=[*self.q.tolist(), gripper.open_m])
        message.header.stamp = self.listener.node.get_clock().now().to_msg()
        self._states.publish(message)

    def act(self, action: list[float]) -> None:
        """Send one action, as if it were computed from what is seen now."""
        from openvla_ros.ros.messages import to_chunk_message
        from openvla_ros.values.action import ActionChunk

        now_ns = self.listener.node.get_clock().now().nanoseconds
        chunk = ActionChunk(np.array([action]), now_ns, self.profile.space())
        self._chunks.publish(to_chunk_message(chunk, self.profile.action_frame_id()))

    def drive(self, action: list[float], until: float) -> None:
        """Send the same action at the action rate until a joint has moved ``until`` rad."""
        start = self.q
        for _ in range(100):
            self.act(action)
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


def suspend_at_random(cell: "DriverCell", pauses: int, seed: int) -> None:
    """Suspend the controller and the setpoint node at random while the arm moves to and fro."""
    rng, check = random.Random(seed), SetpointCheck.of(cell.profile, doubt_s=0.015)
    for name in ("setpoint", "controller"):
        assert cell.processes[name].process.poll() is None, cell.logs()
    del cell.arrivals[:-1]  # the driver still holds the last setpoint: the motion begins there
    moved = 0.0
    for i in range(pauses):
        start = cell.q
        sign = 1.0 if i % 4 < 2 else -1.0
        for _ in range(2):
            cell.act([0.03 * sign, 0.02 * sign, 0.0, 0.0, 0.0, 0.05 * sign, 1.0])
            cell.listener.spin_until(lambda: False, rng.uniform(0.1, 0.25))
        victim = cell.processes[rng.choice(("setpoint", "controller"))].process
        victim.send_signal(signal.SIGSTOP)
        try:
            cell.listener.spin_until(lambda: False, 0.01 * 200.0 ** rng.random())  # 10 ms .. 2 s
        finally:
            victim.send_signal(signal.SIGCONT)
        moved = max(moved, float(np.abs(cell.q - start).max()))
    cell.listener.spin_until(lambda: False, 0.5)
    for time_s, setpoint in cell.arrivals:
        check.arrive(time_s, setpoint)
    assert check.violations() == []
    assert moved > 0.02


@pytest.mark.ros
def test_no_setpoint_is_beyond_the_limits_while_processes_are_suspended(cell):
    cell.restart()
    suspend_at_random(cell, 8, seed=1)


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nor_in_two_hundred_times(cell):
    cell.restart()
    suspend_at_random(cell, 200, seed=2)


@pytest.mark.ros
def test_a_robot_with_trajectories_of_its_own_needs_no_setpoint_node(ros_domain):
    from support.node_processes import NodeProcess

    with NodeProcess("openvla_ros.nodes.setpoint_node", {"robot": "sim_widowx"}) as process:
        assert process.process.wait(60) == 1
        assert "needs no setpoint node" in process.output
        assert "Traceback" not in process.output
