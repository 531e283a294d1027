"""The switch between the modes: what it outputs before anything was asked for, and where a way begins."""

import numpy as np
import pytest

from openvla_ros.profile import load_profile
from openvla_ros.robot.authority import Authority
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.mode_switch import ModeSwitch
from openvla_ros.robot.output import ControllerState
from openvla_ros.robot.safety.observation_order import ObservationOrder
from openvla_ros.robot.safety.robot_watch import RobotWatch
from openvla_ros.values.verdict import Reason, SafetyVerdict

PROFILE = load_profile("sim_widowx")
NEUTRAL = np.array(PROFILE.arm.neutral)
PERIOD_NS = round(1e9 / PROFILE.control.rate_hz)


@pytest.fixture
def parts():
    authority, watch = Authority("policy"), RobotWatch(PROFILE)
    chain = KinematicChain.from_profile(PROFILE.arm)
    return ModeSwitch(PROFILE, chain, authority, ObservationOrder(), watch), authority, watch


def see(watch, joints, now_ns):
    watch.observe(joints, None, None, now_ns, now_ns)


def test_nothing_is_commanded_before_something_was_asked_for(parts):
    modes, _, watch = parts
    for i in range(1, 5):
        see(watch, NEUTRAL, i * PERIOD_NS)
        modes.tick(i * PERIOD_NS, "")
    output = modes.output()
    assert (output.state, output.verdict.reason) == (ControllerState.IDLE, Reason.WAITING)
    assert output.joint_positions is None


def test_a_way_to_a_pose_begins_at_the_measured_joints(parts):
    modes, _, watch = parts
    measured = NEUTRAL + 0.1
    see(watch, measured, PERIOD_NS)
    modes.tick(PERIOD_NS, "")
    modes.go_to("neutral", measured)
    np.testing.assert_array_equal(modes.output().joint_positions, measured)
    see(watch, measured, 2 * PERIOD_NS)
    modes.tick(2 * PERIOD_NS, "")
    assert modes.output().state is ControllerState.HOMING


def test_a_latched_stop_names_the_state_whatever_else_is_asked(parts):
    modes, authority, watch = parts
    see(watch, NEUTRAL, PERIOD_NS)
    modes.tick(PERIOD_NS, "")
    for reason, state in (
        (Reason.HELD, ControllerState.HOLDING),
        (Reason.E_STOP, ControllerState.E_STOP),
        (Reason.SHUT_DOWN, ControllerState.STOPPED),
    ):
        authority.latch(reason, "by the test")
        modes.rest(SafetyVerdict.hold(Reason.WAITING, "waiting for policy"))
        assert (modes.state, modes.verdict.reason) == (state, reason)


def test_an_event_is_counted_by_its_reason(parts):
    modes, _, _ = parts
    modes.interrupt(SafetyVerdict.hold(Reason.STARVED, "no chunk"))
    modes.count(SafetyVerdict.hold(Reason.STARVED, "no chunk"))
    assert modes.output().counters == {Reason.STARVED: 2}
