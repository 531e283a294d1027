"""What stops the arm, who may do it, and what it takes to go on."""

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
)

from openvla_ros.robot.controller import ArmController
from openvla_ros.robot.output import ControllerState
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.verdict import Reason


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


@pytest.mark.parametrize("fault", [Reason.TRACKING, Reason.STATE_STALE])
@pytest.mark.parametrize("bar", [Reason.RIVAL, Reason.DRIVER])
def test_a_fault_that_ends_while_nothing_is_commanded_is_over(fault, bar):
    bench = Bench(WIDOWX)
    bench.run_policy(action(x=0.02), 0.4)
    stuck = bench.q + 0.5
    for _ in range(5 if fault is Reason.TRACKING else 40):
        bench.now_ns += TICK_NS
        if fault is Reason.TRACKING:
            bench.controller.observe(stuck, None, None, bench.now_ns, bench.now_ns)
        bench.outputs.append(bench.controller.tick(bench.now_ns))
    assert bench.outputs[-1].verdict.reason is fault
    bench.controller.stand_back("somebody else", bar)
    bench.tick(100)
    assert bench.outputs[-1].joint_positions is None
    bench.controller.stand_back(None, bar)
    assert bench.tick(10).verdict.reason is Reason.HELD
    assert bench.controller.go_to("home").commands
    bench.tick(3)
    assert bench.outputs[-1].state is ControllerState.HOMING


def test_a_driver_that_must_not_be_used_stops_the_arm_and_holds_it_once_it_is_ready():
    bench = Bench(WIDOWX)
    bench.run_policy(action(x=0.02), 0.6)
    bench.controller.stand_back("/arm_controller is inactive", Reason.DRIVER)
    assert bench.send(action(x=0.02)).reason is Reason.DRIVER
    assert bench.controller.go_to("home").reason is Reason.DRIVER
    assert bench.tick(100).joint_positions is None
    bench.controller.stand_back("/other also publishes /arm")  # a rival beside it
    bench.controller.stand_back(None, Reason.DRIVER)
    assert bench.tick().verdict.reason is Reason.RIVAL
    bench.controller.stand_back(None)
    assert bench.tick().verdict.reason is Reason.HELD
    assert bench.controller.give_to("policy").commands
    bench.tick()
    assert bench.send(action(x=0.01)).commands


def test_a_driver_that_gets_ready_while_the_robot_starts_needs_no_person():
    bench = Bench(WIDOWX)
    for what in ("has not answered yet", "is inactive"):
        bench.controller.stand_back(what, Reason.DRIVER)
        assert bench.tick().verdict.reason is Reason.DRIVER
    assert bench.send(action(x=0.01)).reason is Reason.DRIVER
    bench.controller.stand_back(None, Reason.DRIVER)
    assert bench.tick().verdict.reason is Reason.WAITING
    assert bench.send(action(x=0.01)).commands


@pytest.mark.parametrize("stop", ["hold", "e_stop"])
def test_but_a_stop_meanwhile_is_not_forgotten(stop):
    bench = Bench(WIDOWX)
    bench.controller.stand_back("has not answered yet", Reason.DRIVER)
    bench.tick()
    if stop == "hold":
        bench.controller.hold()
    else:
        bench.controller.e_stop("a person")
        assert bench.controller.reset_e_stop().reason is Reason.DRIVER
    bench.controller.stand_back(None, Reason.DRIVER)
    assert bench.tick().verdict.reason is Reason.HELD
    assert bench.send(action(x=0.01)).reason is Reason.HELD


@pytest.mark.parametrize("first", ["rival", "e_stop"])
def test_beside_a_rival_a_stopped_controller_commands_nothing_and_names_it(first):
    bench = Bench(WIDOWX)
    centre(bench)
    bench.run_policy(action(x=0.03), 0.6)
    stops = {"e_stop": lambda: bench.controller.e_stop("a test")}
    stops["rival"] = lambda: bench.controller.stand_back("/other also publishes /arm")
    for name in sorted(stops, key=lambda name: name != first):
        stops[name]()
        bench.tick()
    output = bench.tick(200)
    assert output.state is ControllerState.E_STOP
    assert output.joint_positions is None
    assert "/other also publishes /arm" in bench.tick().verdict.detail
    bench.controller.stand_back(None)
    assert bench.controller.reset_e_stop().reason is Reason.HELD
    assert bench.controller.give_to("policy").commands
    bench.tick()
    assert bench.send(action(x=0.01)).commands


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


def test_a_new_instruction_does_not_take_the_arm_from_a_person_s_hand():
    bench = Bench(WIDOWX)
    assert bench.controller.ask_for_policy("/teleop").commands  # who is there but does not have the arm
    assert bench.controller.give_to("teleoperation").commands
    refused = bench.controller.ask_for_policy("/teleop")
    assert refused.reason is Reason.OWNER
    assert "/teleop has the arm; hand it back there, or with openvla give-to-policy" in refused.detail
    assert bench.tick().owner == "teleoperation"
    assert bench.controller.ask_for_policy(None).commands  # the person has gone
    assert bench.tick().owner == "policy"


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


def test_a_held_arm_that_was_pushed_away_goes_to_no_pose_before_the_commands_are_where_it_is():
    bench = Bench(WIDOWX)
    bench.run_policy(action(x=0.01), 0.6)
    bench.controller.hold()
    bench.tick(100)
    pushed = bench.q + 0.4

    def report(ticks):
        for _ in range(ticks):
            bench.now_ns += TICK_NS
            bench.controller.observe(pushed, None, None, bench.now_ns, bench.now_ns)
            bench.outputs.append(bench.controller.tick(bench.now_ns))
        return bench.outputs[-1]

    held = report(20)
    assert held.verdict.reason is Reason.HELD
    refused = bench.controller.go_to("home")
    assert (refused.commands, refused.reason) == (False, Reason.TRACKING)
    assert "give the arm to an owner" in refused.detail
    np.testing.assert_array_equal(report(50).joint_positions, held.joint_positions)  # and nothing moves
    bench.controller.give_to("teleoperation")
    np.testing.assert_allclose(report(600).joint_positions, pushed, atol=WIDOWX.limits.tracking_error_rad)
    assert bench.controller.go_to("home").commands


def test_a_motion_that_begins_while_a_fault_stands_is_stopped_too():
    bench = Bench(WIDOWX)
    bench.run_policy(action(x=0.01), 0.6)
    bench.controller.go_to("home")
    bench.tick(5)
    assert bench.outputs[-1].state is ControllerState.HOMING
    off = bench.q + 0.8
    states = []
    for _ in range(30):
        bench.now_ns += TICK_NS
        bench.controller.observe(off, None, None, bench.now_ns, bench.now_ns)
        states.append(bench.controller.tick(bench.now_ns).state)
        bench.controller._modes.state = ControllerState.HOMING  # however it came about
    assert set(states) == {ControllerState.STOPPED}


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


def test_shutdown_comes_to_rest_and_takes_nothing_more():
    bench = Bench(WIDOWX)
    bench.run_policy(action(x=0.03), 0.6)
    bench.controller.shutdown()
    output = bench.tick(100)
    assert output.at_rest
    assert output.state is ControllerState.STOPPED
    assert bench.send(action(x=0.01)).reason is Reason.SHUT_DOWN
    assert bench.controller.give_to("policy").reason is Reason.SHUT_DOWN
