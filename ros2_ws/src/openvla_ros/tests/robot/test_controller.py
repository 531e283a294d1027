"""The controller's core: what it accepts, how it moves, and who may stop it."""

from dataclasses import replace

import numpy as np
import pytest
from support.controller_bench import (
    FRANKA,
    ROBOTS,
    START_NS,
    TICK_NS,
    WIDOWX,
    Bench,
    action,
    centre,
    with_control,
)

from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import load_profile
from openvla_ros.robot.controller import ArmController
from openvla_ros.robot.kinematics.collision import TableClearance
from openvla_ros.robot.output import ControllerState
from openvla_ros.robot.safety.chunk import ReceivedChunk
from openvla_ros.robot.safety.motion import TABLE_TOLERANCE_M
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.geometry import Pose
from openvla_ros.values.verdict import Reason


@ROBOTS
def test_nothing_moves_before_it_is_told_to(profile):
    bench = Bench(profile)
    output = bench.tick(200)
    assert output.state is ControllerState.IDLE
    assert output.verdict.reason is Reason.WAITING
    assert all(o.joint_positions is None and o.gripper_opening is None for o in bench.outputs)


@ROBOTS
def test_a_delta_moves_the_tool_by_exactly_that_much(profile):
    bench = Bench(profile)
    centre(bench)
    before = bench.tool()
    assert bench.send(action(x=0.02, y=-0.01, z=0.01, yaw=0.1)).commands
    bench.tick(120)
    after = bench.tool()
    np.testing.assert_allclose(after.position - before.position, [0.02, -0.01, 0.01], atol=2e-4)
    turned = Pose(np.zeros(3), after.rotation @ before.rotation.T).euler_xyz
    np.testing.assert_allclose(turned, [0, 0, 0.1], atol=2e-3)


@ROBOTS
def test_deltas_compose_on_the_commanded_target_not_on_the_lagging_arm(profile):
    bench = Bench(profile)
    centre(bench)
    start = bench.tool().position
    for _ in range(10):
        bench.send(action(x=0.01))
        bench.tick(20)
    np.testing.assert_allclose(bench.outputs[-1].target.position - start, [0.1, 0, 0], atol=5e-4)
    bench.tick(40)
    np.testing.assert_allclose(bench.tool().position - start, [0.1, 0, 0], atol=5e-4)


@ROBOTS
@pytest.mark.parametrize("period_s", [0.1, 0.2, 0.3])
def test_there_is_no_pause_while_the_policy_keeps_up(profile, period_s):
    bench = Bench(profile)
    centre(bench)
    bench.run_policy(action(x=0.01), 1.8, period_s)
    tool = np.array([o.tool.position for o in bench.outputs])
    speed = np.linalg.norm(np.diff(tool, axis=0), axis=1) / 0.01
    cruise = speed[90:]
    assert cruise.min() > 0.7 * cruise.mean()
    # Ten times a second of a 5 Hz space does not double the speed.
    np.testing.assert_allclose(cruise.mean(), 0.01 / max(period_s, 0.2), rtol=0.1)


@ROBOTS
def test_the_stream_keeps_velocity_acceleration_and_jerk_limits(profile):
    bench = Bench(profile)
    centre(bench)
    rng = np.random.default_rng(0)
    bounds = profile.space().upper
    for _ in range(40):
        bench.send(np.append(rng.uniform(-1, 1, 6) * bounds[:6], rng.random()))
        bench.tick(int(rng.integers(5, 30)))
    bench.tick(100)
    limits = profile.limits
    for stream, limit in zip(
        bench.streams(), (limits.joint_velocity, limits.joint_acceleration, limits.joint_jerk), strict=True
    ):
        assert np.all(np.abs(stream) <= np.array(limit) * (1 + 1e-6))


@ROBOTS
def test_a_policy_that_stops_leads_to_a_smooth_stop_and_a_hold(profile):
    bench = Bench(profile)
    centre(bench)
    bench.run_policy(action(x=0.02), 1.0)
    output = bench.tick(100)
    assert output.state is ControllerState.HOLDING
    assert output.verdict.reason is Reason.STARVED
    assert output.at_rest
    assert output.counters[Reason.STARVED] >= 1


def test_a_fresh_chunk_skips_the_steps_that_are_past():
    bench = Bench(WIDOWX)
    centre(bench)
    bench.send(*[action(x=0.01)] * 8)
    bench.tick(40)  # two steps are made
    stamp_age_s = 0.4  # the observation is from when they began
    verdict = bench.send(*[action(x=0.01)] * 8, age_s=stamp_age_s - 0.01)
    assert verdict.detail == "2 steps are past"
    before = bench.outputs[-1].target.position
    bench.tick(200)
    np.testing.assert_allclose(bench.tool().position - before, [0.06, 0, 0], atol=5e-4)


def test_no_step_is_skipped_while_the_arm_stood_still():
    bench = Bench(WIDOWX)
    centre(bench)
    before = bench.tool().position
    assert bench.send(*[action(x=0.01)] * 4, age_s=0.5).detail == ""
    bench.tick(200)
    np.testing.assert_allclose(bench.tool().position - before, [0.04, 0, 0], atol=5e-4)


def test_blocking_control_moves_then_looks():
    bench = Bench(with_control(WIDOWX, mode="blocking"))
    assert bench.send(action(x=0.02), age_s=0.5).commands
    bench.tick(5)
    assert bench.send(action(x=0.02)).reason is Reason.BUSY
    while not bench.tick().settled:
        assert len(bench.outputs) < 300
    seen_before_rest = bench.chunk(action(x=0.02), age_s=0.2)
    assert bench.controller.accept(seen_before_rest, "policy", bench.now_ns).reason is Reason.BUSY
    bench.tick(5)
    assert bench.send(action(x=0.02)).commands


def received(bench: Bench, **changes) -> ReceivedChunk:
    good = ReceivedChunk.from_chunk(bench.chunk(action(x=0.01)), bench.profile)
    return replace(good, **changes)


NAN = np.array([[0, 0, np.nan, 0, 0, 0, 1.0]])
INF = np.array([[0, 0, 0, 0, -np.inf, 0, 1.0]])
HUGE = np.array([[0.08, 0, 0, 0, 0, 0, 1.0]])


@ROBOTS
@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"values": NAN}, Reason.NOT_FINITE, "z of step 0 is nan"),
        ({"values": INF}, Reason.NOT_FINITE, "pitch of step 0 is -inf"),
        ({"values": HUGE}, Reason.STEP_BOUNDS, "x of step 0 is 0.08; its limits are -0.05 .. 0.05 m"),
        ({"values": np.zeros((1, 6))}, Reason.WIDTH, "(1, 6)"),
        ({"values": np.zeros((0, 7))}, Reason.WIDTH, "(0, 7)"),
        ({"values": np.zeros(7)}, Reason.WIDTH, "(7,)"),
        ({"frame_id": "camera"}, Reason.SPACE, "'camera'"),
        ({"names": ("a",) * 7}, Reason.SPACE, "'a'"),
        ({"step_s": 0.5}, Reason.TIMING, "0.5 s; the robot expects 0.2 s"),
        ({"step_s": float("nan")}, Reason.TIMING, "nan"),
        ({"stamp_ns": START_NS - 10**9}, Reason.STALE, "the limit is 0.6 s"),
        ({"stamp_ns": START_NS + 10**9}, Reason.FUTURE, "ahead of the controller's clock"),
    ],
)
def test_a_wrong_chunk_is_refused_by_name(profile, changes, reason, detail):
    bench = Bench(profile)
    verdict = bench.controller.accept(received(bench, **changes), "policy", bench.now_ns)
    assert verdict.outcome == "hold"
    assert verdict.reason is reason
    assert detail in verdict.detail
    output = bench.tick(20)
    assert output.joint_positions is None
    assert output.counters[reason] == 1


def test_a_value_just_beyond_its_bound_is_limited_and_said_so():
    bench = Bench(WIDOWX)
    centre(bench)
    before = bench.tool().position
    values = np.array([[0.052, 0, 0, 0, 0, 0, 1.0]])
    verdict = bench.controller.accept(received(bench, values=values), "policy", bench.now_ns)
    assert verdict.commands
    assert verdict.reason is Reason.STEP_BOUNDS
    assert "0.052; its limits are -0.05 .. 0.05 m" in verdict.detail
    assert bench.tick(100).counters[Reason.STEP_BOUNDS] == 1
    np.testing.assert_allclose(bench.tool().position - before, [0.05, 0, 0], atol=5e-4)


def test_duplicates_and_older_observations_are_refused():
    bench = Bench(WIDOWX)
    assert bench.send(action(x=0.01)).commands
    assert bench.send(action(x=0.01)).reason is Reason.DUPLICATE
    assert bench.send(action(x=0.01), age_s=0.1).reason is Reason.OUT_OF_ORDER


@ROBOTS
def test_targets_stay_in_the_workspace_and_upright(profile):
    bench = Bench(profile)
    centre(bench)
    lower, upper = np.array(profile.limits.workspace_lower), np.array(profile.limits.workspace_upper)
    reasons = set()
    slack = profile.limits.workspace_tolerance_m + 1e-6
    for _ in range(40):
        bench.send(action(y=0.05, z=-0.02, roll=0.1))
        output = bench.tick(20)
        reasons.add(output.verdict.reason)
        if output.target is not None:
            position = output.target.position
            assert np.all((position >= lower - slack) & (position <= upper + slack))
    tool = np.array([o.tool.position for o in bench.outputs])
    assert np.all((tool >= lower - slack) & (tool <= upper + slack))
    assert reasons & {Reason.WORKSPACE, Reason.TILT, Reason.TABLE, Reason.INVERSE_KINEMATICS}


def test_the_table_stops_the_arm_before_it_is_touched():
    bench = Bench(replace(WIDOWX, limits=replace(WIDOWX.limits, table_height_m=0.05)))
    centre(bench)
    for _ in range(40):
        bench.send(action(z=-0.02))
        bench.tick(20)
    assert bench.outputs[-1].counters[Reason.TABLE] > 0
    gripper, chain = WIDOWX.gripper, bench.controller.chain
    table = TableClearance(chain, {gripper.joint: gripper.open_m}, 0.05)
    heights = [table.margins(chain.frames(o.joint_positions[None])).min() for o in bench.outputs]
    assert -TABLE_TOLERANCE_M - 1e-6 < min(heights) < 0.02


def test_a_line_through_the_arm_itself_is_refused():
    # From folded back over the base, straight to a pose on the other side.
    arm = replace(WIDOWX.arm, home=(0.0, 1.9, 1.5, 0.0, 1.5, 0.0))
    bench = Bench(replace(WIDOWX, arm=arm), at="neutral")
    bench.controller.go_to("home")
    output = bench.tick(5)
    assert output.verdict.reason in (Reason.TABLE, Reason.SELF_COLLISION)
    assert output.state is ControllerState.HOLDING
    np.testing.assert_allclose(output.joint_positions, WIDOWX.arm.neutral, atol=1e-12)


@ROBOTS
@pytest.mark.parametrize("name", ["home", "neutral", "park"])
def test_named_poses_are_reached_within_the_limits(profile, name):
    bench = Bench(profile, at="park" if name != "park" else "neutral")
    assert bench.controller.go_to(name).commands
    output = bench.tick(10)
    assert output.state is ControllerState.HOMING
    assert bench.send(action(x=0.01)).reason is Reason.BUSY
    while bench.tick().state is ControllerState.HOMING:
        assert len(bench.outputs) < 3000
    np.testing.assert_allclose(bench.q, getattr(profile.arm, name), atol=1e-5)
    assert bench.outputs[-1].at_rest
    share = profile.control.homing_share
    limits = profile.limits
    for stream, limit in zip(
        bench.streams(), (limits.joint_velocity, limits.joint_acceleration, limits.joint_jerk), strict=True
    ):
        assert np.all(np.abs(stream) <= np.array(limit) * share * (1 + 1e-6))
    # What was seen on the way says nothing of where the arm is now.
    assert bench.send(action(x=0.01), age_s=0.3).reason is Reason.BUSY


def test_an_unknown_pose_or_owner_lists_the_choices():
    bench = Bench(WIDOWX)
    with pytest.raises(InvalidValueError, match=r"'up'.*home, neutral, park"):
        bench.controller.go_to("up")
    with pytest.raises(InvalidValueError, match=r"'me'.*policy, teleoperation, recovery"):
        bench.controller.give_to("me")


@ROBOTS
def test_an_emergency_stop_is_latched_until_it_is_reset_on_purpose(profile):
    bench = Bench(profile)
    centre(bench)
    bench.run_policy(action(x=0.03), 0.6)
    moving = bench.outputs[-1]
    assert not moving.at_rest
    bench.controller.e_stop("a test")
    while not bench.tick().at_rest:
        assert bench.outputs[-1].stamp_ns - moving.stamp_ns < 10**9
    assert bench.outputs[-1].state is ControllerState.E_STOP
    for refused in (
        bench.send(action(x=0.01)),
        bench.controller.go_to("home"),
        bench.controller.give_to("policy"),
    ):
        assert refused.reason is Reason.E_STOP
        assert "a test" in refused.detail
    bench.controller.hold()
    assert bench.tick().state is ControllerState.E_STOP
    assert bench.controller.reset_e_stop().reason is Reason.HELD
    assert bench.send(action(x=0.01)).reason is Reason.HELD
    assert bench.controller.give_to("policy").commands
    bench.tick()
    assert bench.send(action(x=0.01)).commands
    limits = profile.limits
    for stream, limit in zip(
        bench.streams(), (limits.joint_velocity, limits.joint_acceleration, limits.joint_jerk), strict=True
    ):
        assert np.all(np.abs(stream) <= np.array(limit) * (1 + 1e-6))


def test_a_hold_lasts_until_the_arm_is_given_away():
    bench = Bench(WIDOWX)
    bench.run_policy(action(x=0.01), 0.4)
    bench.controller.hold()
    assert bench.send(action(x=0.01)).reason is Reason.HELD
    bench.tick(100)
    assert bench.controller.go_to("neutral").commands
    bench.tick(600)
    assert bench.outputs[-1].verdict.reason is Reason.HELD
    bench.controller.give_to("policy")
    bench.tick()
    assert bench.send(action(x=0.01)).commands


def test_beside_a_rival_the_arm_stops_within_its_limits_and_nothing_is_commanded_any_more():
    bench = Bench(WIDOWX)
    bench.run_policy(action(x=0.02), 1.0)
    begin = len(bench.outputs)
    bench.controller.stand_back("another /controller also publishes /controller/verdict")
    assert bench.send(action(x=0.02)).reason is Reason.RIVAL
    bench.tick(100)
    stopping = [o.joint_positions for o in bench.outputs[begin - 3 :] if o.joint_positions is not None]
    acceleration = np.diff(np.array(stopping), n=2, axis=0) * 1e4
    assert np.all(np.abs(acceleration) <= np.array(WIDOWX.limits.joint_acceleration) * (1 + 1e-6))
    assert 3 < len(stopping) < 90
    last = bench.outputs[-1]
    assert (last.joint_positions, last.gripper_opening) == (None, None)
    assert last.verdict.reason is Reason.RIVAL
    assert "another /controller" in last.verdict.detail
    for refused in (bench.controller.go_to("home"), bench.controller.give_to("policy")):
        assert refused.reason is Reason.RIVAL

    bench.q = bench.q + 0.05  # the rival has moved the arm
    bench.controller.stand_back(None)
    assert bench.tick(10).verdict.reason is Reason.HELD
    assert bench.outputs[-1].joint_positions is None
    assert bench.controller.give_to("policy").commands
    was = bench.q.copy()
    bench.tick(2)
    assert bench.send(action(x=0.001)).commands
    np.testing.assert_allclose(bench.tick().joint_positions, was, atol=1e-3)  # from where the arm is now


def test_a_rival_that_is_there_when_an_emergency_stop_is_reset_still_stops_the_arm():
    bench = Bench(WIDOWX)
    bench.controller.e_stop("a person")
    bench.controller.stand_back("/rqt also publishes /arm")
    assert bench.tick().verdict.reason is Reason.E_STOP
    assert bench.controller.reset_e_stop().reason is Reason.RIVAL
    assert bench.controller.give_to("policy").reason is Reason.RIVAL


@ROBOTS
def test_the_arm_has_one_owner_and_changes_hands_without_a_jump(profile):
    bench = Bench(profile)
    centre(bench)
    bench.run_policy(action(x=0.02), 0.6)
    assert bench.send(action(y=0.02), source="teleoperation").reason is Reason.OWNER
    bench.controller.give_to("teleoperation")
    bench.tick()
    assert bench.send(action(x=0.02)).reason is Reason.OWNER
    for _ in range(5):
        assert bench.send(action(y=0.02), source="teleoperation").commands
        bench.tick(20)
    output = bench.tick(40)
    assert output.owner == "teleoperation"
    assert output.verdict.reason is Reason.DEAD_MAN
    assert output.at_rest
    limits = profile.limits
    for stream, limit in zip(
        bench.streams(), (limits.joint_velocity, limits.joint_acceleration, limits.joint_jerk), strict=True
    ):
        assert np.all(np.abs(stream) <= np.array(limit) * (1 + 1e-6))


def test_letting_go_of_the_dead_man_switch_stops_the_arm():
    """Whoever lets go sends no more chunks: that is the one path there is, from every device."""
    bench = Bench(WIDOWX)
    bench.controller.give_to("teleoperation")
    bench.tick()
    bench.send(*[action(x=0.02)] * 5, source="teleoperation")
    limit_s = WIDOWX.control.dead_man_s
    assert bench.tick(round(100 * limit_s) - 1).state is ControllerState.EXECUTING
    assert np.abs(np.diff([o.joint_positions for o in bench.outputs[-2:]], axis=0)).max() > 1e-3
    output = bench.tick(3)
    assert output.verdict.reason is Reason.DEAD_MAN  # though steps were left
    assert bench.tick(40).at_rest


def test_tracking_error_stops_the_arm_and_lets_it_give_way():
    bench = Bench(WIDOWX)
    bench.run_policy(action(x=0.01), 0.6)
    blocked = bench.q + 0.5
    for _ in range(300):
        bench.now_ns += TICK_NS
        bench.controller.observe(blocked, None, None, bench.now_ns, bench.now_ns)
        output = bench.controller.tick(bench.now_ns)
        bench.outputs.append(output)
    assert any(o.state is ControllerState.STOPPED for o in bench.outputs)
    assert output.counters[Reason.TRACKING] == 1
    # It went to where the arm is, so the error is gone.
    assert np.abs(output.joint_positions - blocked).max() < WIDOWX.limits.tracking_error_rad
    assert output.state is ControllerState.HOLDING


def test_effort_and_wrench_beyond_their_limits_stop_the_arm():
    bench = Bench(replace(WIDOWX, limits=replace(WIDOWX.limits, effort=(5.0,) * 6)))
    bench.effort = np.zeros(6)
    bench.tick()
    bench.run_policy(action(x=0.01), 0.6)
    bench.effort = np.array([0, 0, -6.0, 0, 0, 0])
    output = bench.tick(5)
    assert output.verdict.reason is Reason.EFFORT
    assert "elbow reports -6.0; the limit is 5" in output.verdict.detail
    assert bench.send(action(x=0.01)).reason is Reason.EFFORT
    bench.effort = np.zeros(6)
    bench.tick(50)
    assert bench.send(action(x=0.01)).commands

    state = replace(FRANKA.state, wrench_topic="/wrench")
    bench = Bench(replace(FRANKA, state=state, limits=replace(FRANKA.limits, wrench_n=30.0)))
    centre(bench)
    bench.run_policy(action(x=0.01), 0.6)
    bench.reports_wrench = False
    bench.controller.observe_wrench([0, 0, 31.0], [0, 0, 0], bench.now_ns, bench.now_ns)
    assert bench.tick().verdict.reason is Reason.WRENCH
    broken = bench.controller.observe_wrench([np.nan, 0, 0], [0, 0, 0], bench.now_ns, bench.now_ns)
    assert broken.reason is Reason.STATE_INVALID


def test_a_robot_whose_efforts_are_limited_is_not_moved_without_them():
    bench = Bench(replace(WIDOWX, limits=replace(WIDOWX.limits, effort=(5.0,) * 6)))
    bench.tick()
    refused = bench.send(action(x=0.01))
    assert refused.reason is Reason.NO_STATE
    assert "report no efforts" in refused.detail
    assert bench.controller.go_to("home").reason is Reason.NO_STATE
    bench.effort = np.zeros(6)
    bench.tick()
    bench.run_policy(action(x=0.01), 0.6)
    assert bench.outputs[-1].state is ControllerState.EXECUTING
    bench.effort = None  # the driver stops reporting them
    assert bench.tick(3).verdict.reason is Reason.NO_STATE


def test_a_robot_that_should_report_a_wrench_is_not_moved_without_one():
    state = replace(FRANKA.state, wrench_topic="/wrench")
    bench = Bench(replace(FRANKA, state=state, limits=replace(FRANKA.limits, wrench_n=30.0)))
    bench.controller = ArmController(bench.profile)
    bench.reports_wrench = False
    bench.tick()
    refused = bench.send(action(x=0.01))
    assert refused.reason is Reason.NO_STATE
    assert "no external wrench" in refused.detail
    assert bench.controller.go_to("home").reason is Reason.NO_STATE
    zero = np.zeros(3)
    assert bench.controller.observe_wrench(zero, zero, bench.now_ns, bench.now_ns).commands
    assert bench.send(action(x=0.01)).commands
    late = bench.controller.observe_wrench(zero, zero, bench.now_ns + 10**9, bench.now_ns)
    assert late.reason is Reason.FUTURE
    output = bench.tick(round(100 * FRANKA.state.max_age_s) + 2)  # the wrench has stopped coming
    assert output.verdict.reason is Reason.STATE_STALE
    assert "external wrench" in output.verdict.detail


def test_a_stale_or_broken_joint_state_stops_the_arm():
    bench = Bench(WIDOWX)
    bench.run_policy(action(x=0.02), 0.6)
    q = bench.q
    for _ in range(60):
        bench.now_ns += TICK_NS
        verdict = bench.controller.observe(np.full(6, np.nan), None, None, bench.now_ns, bench.now_ns)
        assert verdict.reason is Reason.STATE_INVALID
        output = bench.controller.tick(bench.now_ns)
    assert output.state is ControllerState.STOPPED
    assert output.verdict.reason is Reason.STATE_STALE
    assert output.at_rest
    assert np.abs(output.joint_positions - q).max() < 0.5
    assert bench.send(action(x=0.02)).reason is Reason.STATE_STALE
    bench.q = output.joint_positions
    assert bench.tick(2).state is ControllerState.HOLDING
    assert bench.send(action(x=0.02)).commands


def test_velocities_that_the_hardware_does_not_measure_are_not_missed():
    bench, nan = Bench(WIDOWX), np.full(6, np.nan)
    observe = bench.controller.observe
    assert observe(bench.q, nan, None, bench.now_ns, bench.now_ns).commands
    broken = observe(bench.q, [0.0, *nan[1:]], None, bench.now_ns, bench.now_ns)
    assert broken.reason is Reason.STATE_INVALID
    assert "velocities" in broken.detail


def test_without_a_joint_state_nothing_is_accepted():
    controller = ArmController(WIDOWX)
    controller.tick(START_NS)
    chunk = ActionChunk(np.array([action(x=0.01)]), START_NS, WIDOWX.space())
    assert controller.accept(chunk, "policy", START_NS).reason is Reason.NO_STATE
    assert controller.go_to("home").reason is Reason.NO_STATE


def test_an_arm_found_outside_its_joint_limits_is_not_moved_by_chunks():
    bench = Bench(WIDOWX)
    bench.q = bench.q.copy()
    bench.q[2] = WIDOWX.limits.joint_upper[2] + 0.2
    bench.tick()
    verdict = bench.send(action(x=0.01))
    assert verdict.reason is Reason.JOINT_LIMIT
    assert "elbow" in verdict.detail


def test_the_clock_going_back_stops_the_arm_and_starts_afresh():
    bench = Bench(WIDOWX)
    bench.run_policy(action(x=0.02), 0.6)
    bench.now_ns = START_NS // 2
    bench.tick()
    assert bench.tick(100).state is ControllerState.HOLDING
    assert bench.outputs[-1].counters[Reason.TIMING] == 1
    assert bench.send(action(x=0.02)).commands


def test_ticks_that_come_too_often_do_not_speed_the_arm_up():
    fast, slow = Bench(WIDOWX), Bench(WIDOWX)
    slow.run_policy(action(x=0.02), 0.6)
    for _ in range(3):
        fast.send(action(x=0.02), age_s=0.1)
        for i in range(200):
            fast.now_ns += TICK_NS // 10
            fast.controller.observe(fast.q, None, None, fast.now_ns, fast.now_ns)
            output = fast.controller.tick(fast.now_ns)
            if i % 10 == 9:
                fast.outputs.append(output)
            fast.q = output.joint_positions
    np.testing.assert_allclose(fast.q, slow.q, atol=2e-2)
    assert np.all(np.abs(fast.streams()[0]) <= np.array(WIDOWX.limits.joint_velocity))


def test_a_late_tick_takes_no_longer_step():
    bench = Bench(WIDOWX)
    bench.run_policy(action(x=0.03), 0.6)
    before = bench.q
    bench.now_ns += 2 * TICK_NS
    after = bench.tick().joint_positions
    assert np.all(np.abs(after - before) <= np.array(WIDOWX.limits.joint_velocity) * 0.01)


def test_the_gripper_does_not_flicker_around_its_threshold():
    bench = Bench(WIDOWX)
    seen = []
    for opening in (0.9, 0.45, 0.55, 0.42, 0.3, 0.55, 0.45, 0.58, 0.7):
        bench.send(action(gripper=opening))
        seen.append(bench.tick(25).gripper_opening)
    assert seen == [1, 1, 1, 1, 0, 0, 0, 0, 1]


def test_the_gripper_sign_is_the_spaces():
    inverse = replace(WIDOWX, action_space=replace(WIDOWX.action_space, gripper_open=0))
    bench = Bench(inverse)
    bench.send(action(gripper=0.0))
    assert bench.tick(5).gripper_opening == 1.0


def test_droid_actions_are_steps_of_the_flange_at_15_hz():
    bench = Bench(load_profile("franka_droid"))
    bench.send(action(z=-0.03, gripper=0.0))
    assert bench.tick(60).gripper_opening == 1.0
    assert bench.controller.chain.tool_link == "fr3_link8"
    before = bench.tool()
    for i in range(15):
        assert bench.send(action(x=0.005, yaw=0.01, gripper=1.0)).commands
        bench.tick(7 if i % 3 else 6)
    output = bench.tick(40)
    after = bench.tool()
    assert output.gripper_opening == 0.0
    np.testing.assert_allclose(after.position - before.position, [0.075, 0, 0], atol=1e-3)
    turned = Pose(np.zeros(3), after.rotation @ before.rotation.T).euler_xyz
    np.testing.assert_allclose(turned, [0, 0, 0.15], atol=2e-3)


def test_an_unreachable_target_is_given_up_by_name():
    profile = replace(WIDOWX, limits=replace(WIDOWX.limits, workspace_upper=(1.0, 1.0, 1.0)))
    bench = Bench(profile)
    for _ in range(30):
        bench.send(action(x=0.05))
        bench.tick(20)
    assert bench.outputs[-1].counters[Reason.INVERSE_KINEMATICS] > 0
    assert bench.tick(100).at_rest


def test_a_large_drift_starts_the_next_step_from_the_measured_tool():
    bench = Bench(WIDOWX)
    centre(bench)
    drift = np.array([0.3, 0, 0, 0, 0, 0])  # below the tracking limit of 0.35 rad, above 5 cm at the tool
    bench.send(action(x=0.01))
    for _ in range(3):
        bench.now_ns += TICK_NS
        bench.controller.observe(bench.q + drift, None, None, bench.now_ns, bench.now_ns)
        bench.controller.tick(bench.now_ns)
    measured = bench.controller.chain.forward(bench.q + drift)
    output = bench.controller.tick(bench.now_ns)
    assert output.counters[Reason.TRACKING] == 1
    assert output.verdict.commands
    np.testing.assert_allclose(output.target.position, measured.position + np.array([0.01, 0, 0]), atol=2e-3)


def test_shutdown_comes_to_rest_and_takes_nothing_more():
    bench = Bench(WIDOWX)
    bench.run_policy(action(x=0.03), 0.6)
    bench.controller.shutdown()
    output = bench.tick(100)
    assert output.at_rest
    assert output.state is ControllerState.STOPPED
    assert bench.send(action(x=0.01)).reason is Reason.SHUT_DOWN
    assert bench.controller.give_to("policy").reason is Reason.SHUT_DOWN
