"""The way to a named pose, and that the arm stays where a person sent it."""

from dataclasses import replace

import numpy as np
import pytest
from support.controller_bench import ROBOTS, WIDOWX, Bench, action, centre

from openvla_ros.robot.output import ControllerState
from openvla_ros.values.verdict import Reason


def test_a_line_through_the_arm_itself_is_refused():
    # From folded back over the base, straight to a pose on the other side.
    arm = replace(WIDOWX.arm, home=(0.0, 1.9, 1.5, 0.0, 1.5, 0.0))
    bench = Bench(replace(WIDOWX, arm=arm), at="neutral")
    bench.controller.go_to("home")
    output = bench.tick(5)
    assert output.verdict.reason in (Reason.TABLE, Reason.SELF_COLLISION)
    assert output.state is ControllerState.HOLDING
    np.testing.assert_allclose(output.joint_positions, WIDOWX.arm.neutral, atol=1e-12)
    # It was sent somewhere all the same: no policy takes it on from here.
    refused = bench.send(action(x=0.01))
    assert refused.reason is Reason.HELD
    assert "the arm was sent to home; give it to an owner" in refused.detail


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
    # Whoever sent it there may reach for it: it stays, whatever a policy still wants.
    assert bench.outputs[-1].verdict.reason is Reason.HELD
    assert f"at {name}; give" in bench.outputs[-1].verdict.detail
    refused = bench.send(action(x=0.01))
    assert (refused.reason, f"at {name}" in refused.detail) == (Reason.HELD, True)
    assert bench.tick(100).at_rest
    assert bench.controller.give_to("policy").commands
    # What was seen on the way says nothing of where the arm is now.
    assert bench.send(action(x=0.01), age_s=0.3).reason is Reason.BUSY
    bench.tick(2)
    assert bench.send(action(x=0.01)).commands


def test_a_policy_that_still_acts_does_not_move_the_arm_away_from_where_a_person_sent_it():
    bench = Bench(WIDOWX)
    centre(bench)
    bench.run_policy(action(x=0.01), 0.6)
    assert bench.controller.go_to("park").commands
    for _ in range(100):  # 20 s of a policy that notices nothing
        bench.send(action(x=0.02), age_s=0.05)
        bench.tick(20)
    np.testing.assert_allclose(bench.q, WIDOWX.arm.park, atol=1e-5)
    assert bench.controller.hold().reason is Reason.HELD
    assert bench.send(action(x=0.01)).reason is Reason.HELD
