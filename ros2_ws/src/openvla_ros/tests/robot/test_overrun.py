"""The control loop stands still for a while: the arm goes on without a jump, and the controller says so."""

from dataclasses import replace

import numpy as np
import pytest
from support.controller_bench import FRANKA, ROBOTS, START_NS, WIDOWX, Bench, action, centre

from openvla_ros.profile import RobotProfile
from openvla_ros.robot.motion.command_clock import CommandClock, Tick
from openvla_ros.robot.motion.joint_path import Waypoint
from openvla_ros.robot.motion.joint_trajectory_controller import JointTrajectoryController
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimits
from openvla_ros.robot.motion.streamed_trajectory import TrajectoryStream
from openvla_ros.robot.output import ControllerOutput, ControllerState
from openvla_ros.values.verdict import Reason

MS = 1_000_000


class Arm(Bench):
    """A bench whose arm is moved as ros2_control does it: each command is a sample and a stop."""

    def __init__(self, profile: RobotProfile, at: str = "neutral") -> None:
        self.stream = TrajectoryStream(
            MotionLimits.from_profile(profile.limits), profile.arm_backend.lookahead_s
        )
        self.driver = JointTrajectoryController(profile.arm.joints, getattr(profile.arm, at), 1e-3)
        self.path: list[np.ndarray] = []  # what the robot's side commands, each millisecond
        self.velocity = np.zeros(len(profile.arm.joints))
        super().__init__(profile, at)

    @property
    def seconds(self) -> float:
        return (self.now_ns - START_NS) * 1e-9

    def pass_time(self, ns: int) -> None:
        for _ in range(ns // MS):
            self.now_ns += MS
            state = Waypoint(self.seconds, self.q, self.velocity)
            self.path.append(self.driver.update(self.seconds, state).position)
        rate = np.diff(self.path[-3:], axis=0) / 1e-3 if len(self.path) > 2 else np.zeros((1, len(self.q)))
        self.q, self.velocity = self.path[-1], rate[-1]

    def tick(self, count: int = 1) -> ControllerOutput:
        for _ in range(count):
            self.pass_time(10 * MS)
            output = self.step()
        return output

    def step(self, seen: bool = True) -> ControllerOutput:
        """Let the loop run once, now."""
        if seen:
            self.controller.observe(self.q, self.velocity, None, self.now_ns, self.now_ns)
        before = self.outputs[-1].stamp_ns if self.outputs else 0
        output = self.controller.tick(self.now_ns)
        if output.joint_positions is not None and output.stamp_ns != before:
            motion = JointMotion(output.joint_positions, output.joint_velocities, output.joint_accelerations)
            sent = self.stream.next(output.stamp_ns, 0.01, motion)
            empty = [[]] * len(sent.times_s)
            self.driver.receive(
                self.profile.arm.joints, list(sent.times_s), list(sent.positions), list(sent.velocities),
                empty, (sent.stamp_ns - START_NS) * 1e-9, self.seconds,
            )  # fmt: skip
        self.outputs.append(output)
        return output

    def stand_still(self, seconds: float) -> None:
        self.pass_time(round(seconds * 1e9))

    def accelerations(self) -> np.ndarray:
        """Return the largest acceleration of any joint, as a share of its limit, over each 20 ms."""
        speed = np.diff(np.array(self.path)[::5], axis=0) / 5e-3
        change = np.abs(speed[4:] - speed[:-4]) / 20e-3
        return (change / np.array(self.profile.limits.joint_acceleration)).max(axis=1)


def moving(profile: RobotProfile) -> Arm:
    """Return an arm in the middle of a fast motion."""
    arm = Arm(profile)
    centre(arm)
    arm.run_policy(action(x=0.02, y=0.02, yaw=0.1), 0.6)
    assert np.abs(arm.velocity).max() > 0.2
    return arm


@ROBOTS
@pytest.mark.parametrize("gap_s", [0.042, 0.08, 0.15, 0.4, 1.0])
def test_the_arm_goes_on_without_a_jump(profile, gap_s):
    arm = moving(profile)
    ordinary = arm.accelerations().max()
    arm.path.clear()
    arm.stand_still(gap_s)
    for _ in range(4):
        arm.tick(2)
        arm.send(action(x=-0.02, y=-0.02, yaw=-0.1))
        arm.tick(18)
    # Cubics through a few samples of the stop are not exactly it: a little above the limit is theirs.
    assert arm.accelerations().max() < max(1.3, 1.1 * ordinary)
    assert arm.outputs[-1].counters[Reason.OVERRUN] == 1
    assert arm.outputs[-1].target is not None
    assert np.abs(arm.velocity).max() > 0.05  # it went on


@ROBOTS
def test_after_a_long_gap_the_arm_holds_for_a_reason_of_its_own(profile):
    arm = moving(profile)
    seen_before = arm.chunk(action(x=0.02))
    queued = arm.send(*[action(x=0.02)] * 8)
    assert queued.commands
    arm.stand_still(1.0)
    output = arm.step()
    assert output.state is ControllerState.HOLDING
    assert output.verdict.reason is Reason.OVERRUN
    assert "1.0" in output.verdict.detail
    start = arm.tool().position
    output = arm.tick(100)
    assert output.verdict.reason is Reason.OVERRUN
    assert output.at_rest
    np.testing.assert_allclose(arm.tool().position, start, atol=1e-3)  # the queued steps are dropped
    controller = arm.controller
    assert controller.accept(seen_before, "policy", arm.now_ns).reason is Reason.STALE
    arm.send(action(x=0.01))
    assert arm.tick(100).verdict.reason is not Reason.OVERRUN
    np.testing.assert_allclose(arm.tool().position, start + np.array([0.01, 0, 0]), atol=2e-3)


def test_what_was_seen_before_the_loop_ran_again_is_not_acted_on():
    arm = moving(WIDOWX)
    arm.stand_still(0.4)
    assert arm.step().verdict.reason is Reason.OVERRUN
    refused = arm.send(action(x=0.01), age_s=0.1)
    assert refused.reason is Reason.BUSY
    assert "before the arm was ready" in refused.detail
    arm.tick()
    assert arm.send(action(x=0.01)).commands


def test_a_short_gap_is_counted_and_the_motion_goes_on():
    arm = Arm(WIDOWX)
    centre(arm)
    start = arm.tool().position
    arm.send(*[action(x=0.01)] * 8)
    arm.tick(50)
    arm.stand_still(0.1)
    output = arm.step()
    assert output.state is ControllerState.EXECUTING
    assert output.counters[Reason.OVERRUN] == 1
    arm.tick(250)
    np.testing.assert_allclose(arm.tool().position - start, [0.08, 0, 0], atol=1e-3)


def test_nothing_is_commanded_before_the_arm_has_been_seen_again():
    arm = moving(WIDOWX)
    arm.stand_still(1.0)
    for _ in range(5):
        output = arm.step(seen=False)
        assert output.joint_positions is None
        assert output.verdict.reason is Reason.OVERRUN
        assert arm.send(action(x=0.01)).reason is Reason.STATE_STALE
        assert arm.controller.go_to("home").reason is Reason.STATE_STALE
        arm.stand_still(0.01)
    arm.controller.observe(arm.q, arm.velocity, None, arm.now_ns, arm.now_ns)
    assert arm.send(action(x=0.01)).reason is Reason.OVERRUN  # seen, but the loop has not run since
    assert arm.controller.go_to("home").reason is Reason.OVERRUN
    assert arm.step().joint_positions is not None
    assert arm.tick(3).verdict.reason is Reason.OVERRUN


@ROBOTS
def test_an_arm_that_was_moved_meanwhile_is_left_where_it_is(profile):
    arm = moving(profile)
    arm.controller.hold()
    arm.tick(100)
    arm.stand_still(5.0)
    elsewhere = arm.q + 0.1
    arm.driver = JointTrajectoryController(profile.arm.joints, elsewhere, 1e-3)
    arm.pass_time(100 * MS)
    output = arm.tick(50)
    np.testing.assert_allclose(output.joint_positions, elsewhere, atol=1e-9)
    assert np.abs(np.array(arm.path[-500:]) - elsewhere).max() < 1e-9
    assert output.verdict.reason is Reason.HELD  # what is latched stays in force


def test_an_arm_that_sags_under_its_own_weight_is_not_let_down_by_a_short_gap():
    bench = Bench(WIDOWX)
    bench.send(action(x=0.01))
    commanded = bench.tick(150).joint_positions
    bench.now_ns += 100 * MS
    bench.controller.observe(commanded + 0.07, None, None, bench.now_ns, bench.now_ns)
    output = bench.controller.tick(bench.now_ns)
    assert output.counters[Reason.OVERRUN] == 1
    np.testing.assert_allclose(output.joint_positions, commanded, atol=1e-12)


@pytest.mark.parametrize("gap_s", [0.1, 1.0])
def test_a_gap_on_the_way_to_a_named_pose(gap_s):
    arm = Arm(WIDOWX)
    assert arm.controller.go_to("home").commands
    arm.tick(60)
    arm.stand_still(gap_s)
    output = arm.tick(1500)
    assert arm.accelerations().max() < 1.3
    if gap_s < WIDOWX.state.max_age_s:
        assert output.verdict.detail.startswith("at home;")
        np.testing.assert_allclose(arm.q, WIDOWX.arm.home, atol=1e-4)
    else:
        assert output.verdict.reason is Reason.OVERRUN
        assert output.state is ControllerState.HOLDING


def test_an_emergency_stop_survives_a_gap():
    arm = moving(WIDOWX)
    arm.controller.e_stop("a test")
    arm.tick(3)
    arm.stand_still(0.5)
    output = arm.tick(100)
    assert output.state is ControllerState.E_STOP
    assert output.at_rest
    assert arm.accelerations().max() < 1.3


def test_an_arm_that_its_own_software_stops_is_taken_up_where_it_is_measured():
    backend = replace(FRANKA.arm_backend, kind="servo_twist", topic="/servo_node/delta_twist_cmds")
    bench = Bench(replace(FRANKA, arm_backend=backend))
    centre(bench)
    bench.run_policy(action(x=0.02), 0.6)
    halted = bench.q + 0.02
    bench.now_ns += 500 * MS
    bench.controller.observe(halted, np.zeros(7), None, bench.now_ns, bench.now_ns)
    output = bench.controller.tick(bench.now_ns)
    np.testing.assert_allclose(output.joint_positions, halted, atol=1e-12)
    assert output.at_rest


def test_a_clock_that_goes_back_during_a_gap_starts_afresh():
    arm = moving(WIDOWX)
    arm.stand_still(1.0)
    arm.step(seen=False)
    arm.now_ns //= 2
    assert arm.controller.tick(arm.now_ns).joint_positions is None
    bench_like = Bench.tick(arm, 2)
    assert bench_like.joint_positions is None  # as after a start: until something is asked for
    assert arm.send(action(x=0.01)).commands


def test_stamps_are_even_though_the_clock_is_not():
    chance, clock, period_ns = np.random.default_rng(0), CommandClock(0.01, 0.03), 10 * MS
    nows = [i * period_ns + int(chance.uniform(0, 8e6)) for i in range(500)]
    ticks, stamps = zip(*((clock.tick(now), clock.stamp_ns) for now in nows), strict=True)
    due = [i for i, tick in enumerate(ticks) if tick is Tick.PERIOD]
    assert set(ticks) <= {Tick.PERIOD, Tick.EARLY}
    assert len(due) > 480
    assert np.abs(np.diff(np.array(stamps)[due]) - period_ns).max() < 1.5 * MS  # 5% of 30 ms
    assert np.abs(np.array(stamps) - nows)[due].max() < 2 * period_ns  # a period left out, and the jitter


def test_a_period_later_than_allowed_is_an_overrun_with_the_time_that_has_passed():
    clock = CommandClock(0.01, 0.03)
    assert [clock.tick(now * MS) for now in (0, 10, 20, 24, 30)] == [
        Tick.PERIOD, Tick.PERIOD, Tick.PERIOD, Tick.EARLY, Tick.PERIOD,
    ]  # fmt: skip
    assert clock.tick(69 * MS) is Tick.PERIOD  # 29 ms late
    assert clock.elapsed_s == pytest.approx(0.0105)  # longer, until the stamps are with the clock again
    assert clock.tick(115 * MS) is Tick.OVERRUN  # what was not made up for counts
    assert clock.stamp_ns == 115 * MS
    assert clock.elapsed_s == pytest.approx(0.115 - 0.04, abs=2e-3)
    assert clock.tick(125 * MS) is Tick.PERIOD
    assert clock.tick(100 * MS) is Tick.BACK
    assert clock.tick(110 * MS) is Tick.PERIOD


def test_a_chunk_is_executed_after_a_stall_and_a_clock_that_went_back():
    profile = replace(WIDOWX, control=replace(WIDOWX.control, mode="blocking"))
    bench = Bench(profile)
    centre(bench)
    bench.now_ns += 500 * MS  # the loop stalls, and the arm is not seen again before the clock goes back
    assert bench.controller.tick(bench.now_ns).joint_positions is None
    bench.now_ns //= 2
    bench.tick(2)
    before = bench.tool().position
    assert bench.send(action(x=0.01)).reason is Reason.OK
    bench.tick(150)
    np.testing.assert_allclose(bench.tool().position - before, [0.01, 0, 0], atol=5e-4)
