"""The controller's core: how it moves the arm and the gripper, and within which limits."""

from dataclasses import replace

import numpy as np
import pytest
from support.controller_bench import ROBOTS, TICK_NS, WIDOWX, Bench, action, centre

from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import load_profile
from openvla_ros.robot.kinematics.collision import TableClearance
from openvla_ros.robot.output import ControllerState
from openvla_ros.robot.safety.motion import TABLE_TOLERANCE_M
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


def test_an_unknown_pose_or_owner_lists_the_choices():
    bench = Bench(WIDOWX)
    with pytest.raises(InvalidValueError, match=r"'up'.*home, neutral, park"):
        bench.controller.go_to("up")
    with pytest.raises(InvalidValueError, match=r"'me'.*policy, teleoperation"):
        bench.controller.give_to("me")


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
