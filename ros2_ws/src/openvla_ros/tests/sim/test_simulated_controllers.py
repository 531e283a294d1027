"""The simulated arm's controllers: one claims the joints, and a switch goes on where the arm is commanded."""

import re

import numpy as np
import pytest

from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import load_profile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.motion.joint_path import Waypoint
from openvla_ros.robot.motion.joint_trajectory_controller import JointTrajectoryController
from openvla_ros.robot.motion.motion_limiter import MotionLimits
from openvla_ros.sim.simulated_controllers import CARTESIAN, JOINT, TRAJECTORY, SimulatedControllers
from openvla_ros.sim.simulated_driver import SimulatedDriver
from openvla_ros.values.geometry import Pose

PROFILE = load_profile("sim_franka_crisp")
JOINTS = PROFILE.arm.joints
Q = np.array(PROFILE.arm.neutral)
PERIOD_S = 1.0 / PROFILE.state.rate_hz
LIMITS = MotionLimits.from_profile(PROFILE.limits)
CHAIN = KinematicChain.from_profile(PROFILE.arm)


class Arm:
    """The controllers, and every setpoint that they have sent."""

    def __init__(self, active=CARTESIAN):
        def driver(q):
            controller = JointTrajectoryController(JOINTS, q, PERIOD_S, "kilted", False)
            return SimulatedDriver(controller, LIMITS, PERIOD_S)

        self.controllers = SimulatedControllers(PROFILE, driver, Q, active)
        self.sent, self.now_s = [Q], 0.0

    def run(self, seconds):
        for _ in range(round(seconds / PERIOD_S)):
            self.now_s += PERIOD_S
            measured = Waypoint(self.now_s, self.sent[-1], np.zeros(7))
            self.sent.append(self.controllers.sample(self.now_s, measured))
        return self.sent[-1]

    def pull(self, goal, seconds=0.5):
        """A trajectory to ``goal``."""
        self.controllers.receive_trajectory(JOINTS, [seconds], [goal], [[]], [[]], None, self.now_s)


def within_limits(sent):
    steps = np.diff(sent, axis=0) / PERIOD_S
    slower = np.abs(steps) <= LIMITS.velocity * 1.001
    return slower.all() and (np.abs(np.diff(steps, axis=0)) / PERIOD_S <= LIMITS.acceleration * 1.01).all()


def test_the_tool_goes_to_its_target_and_rests_there():
    arm, start = Arm(), CHAIN.forward(Q)
    step, turn = np.array([0.05, -0.08, 0.06]), np.array([0.0, 0.1, 0.2])
    target = Pose.from_euler(start.position + step, start.euler_xyz + turn)
    arm.controllers.receive_pose(target)
    reached = CHAIN.forward(arm.run(4.0))
    np.testing.assert_allclose(reached.position, target.position, atol=1e-3)
    np.testing.assert_allclose(reached.rotation, target.rotation, atol=5e-3)
    assert np.abs(arm.run(0.1) - arm.sent[-11]).max() < 1e-5
    assert within_limits(arm.sent)


def test_the_joints_go_to_theirs():
    arm = Arm(JOINT)
    arm.controllers.receive_joints(JOINTS[::-1], (Q + 0.2)[::-1])
    np.testing.assert_allclose(arm.run(3.0), Q + 0.2, atol=1e-3)
    assert within_limits(arm.sent)
    with pytest.raises(InvalidValueError, match=r"target_joint lacks .*fr3_joint7"):
        arm.controllers.receive_joints(JOINTS[:-1], Q[:-1])


@pytest.mark.parametrize("active", [TRAJECTORY, CARTESIAN, JOINT])
def test_what_an_inactive_controller_is_sent_is_dropped(active):
    arm = Arm(active)
    if active != TRAJECTORY:
        arm.pull(Q + 0.1)
    if active != JOINT:
        arm.controllers.receive_joints(JOINTS, Q + 0.1)
    if active != CARTESIAN:
        arm.controllers.receive_pose(CHAIN.forward(Q + 0.1))
    np.testing.assert_allclose(arm.run(0.5), Q, atol=1e-9)


@pytest.mark.parametrize("after", [TRAJECTORY, CARTESIAN, JOINT])
def test_a_switch_in_motion_brakes_within_the_limits_and_goes_on_from_there(after):
    arm = Arm(TRAJECTORY if after != TRAJECTORY else JOINT)
    if after == TRAJECTORY:
        arm.controllers.receive_joints(JOINTS, Q + 0.4)
    else:
        arm.pull(Q + 0.4)
    arm.run(0.3)
    before = arm.controllers.active
    assert np.abs(arm.sent[-1] - arm.sent[-2]).max() > 1e-3  # it moves
    assert arm.controllers.switch([after], [before], strict=True) == ""
    rest = arm.run(2.0)
    assert within_limits(arm.sent)
    assert np.abs(rest - arm.sent[-20]).max() < 2e-3  # the elbow still goes to its posture
    assert np.abs(rest - Q).max() < 0.39  # not on to the old goal


@pytest.mark.parametrize(
    ("activate", "deactivate", "strict", "why"),
    [
        ([JOINT], [], False, "would claim the same joints"),
        ([JOINT, TRAJECTORY], [CARTESIAN], False, "would claim the same joints"),
        (["gravity"], [CARTESIAN], True, r"\['gravity'\] are not loaded; there are arm_controller"),
        ([], [JOINT], True, "are not all active"),
        ([CARTESIAN], [], True, "is active already"),
    ],
)
def test_a_switch_that_cannot_be_is_refused_and_changes_nothing(activate, deactivate, strict, why):
    arm = Arm()
    assert re.search(why, arm.controllers.switch(activate, deactivate, strict))
    assert arm.controllers.active == CARTESIAN
    assert arm.controllers.switch([CARTESIAN], [JOINT], strict=False) == ""


@pytest.mark.parametrize("strict", [True, False])
def test_one_that_is_switched_off_and_on_starts_again(strict):
    arm = Arm()
    arm.controllers.receive_pose(CHAIN.forward(Q + 0.1))
    arm.run(0.1)
    assert arm.controllers.switch([CARTESIAN], [CARTESIAN], strict) == ""
    assert arm.controllers.active == CARTESIAN
    at = arm.sent[-1]
    assert np.abs(arm.run(2.0) - at).max() < 0.02  # the old target is forgotten


def test_what_is_not_loaded_is_left_out_unless_strict():
    arm = Arm()
    assert arm.controllers.switch(["gravity", JOINT], [CARTESIAN], strict=False) == ""
    assert arm.controllers.active == JOINT


def test_after_a_reflex_nothing_moves_the_arm_until_it_has_recovered_and_a_controller_is_activated():
    arm = Arm(TRAJECTORY)
    arm.pull(Q + 0.4)
    arm.run(0.3)
    arm.controllers.reflex()
    arm.run(1.0)
    assert "the arm is in a reflex" in arm.controllers.switch([TRAJECTORY], [], strict=True)
    arm.controllers.recover()
    rest = arm.run(0.1)
    arm.pull(Q + 0.4)
    np.testing.assert_allclose(arm.run(0.5), rest, atol=1e-9)
    assert arm.controllers.switch([TRAJECTORY], [], strict=True) == ""
    arm.pull(Q + 0.4)
    assert np.abs(arm.run(0.5) - rest).max() > 0.05
    assert within_limits(arm.sent)


def test_without_a_controller_the_arm_brakes_and_rests():
    arm = Arm(TRAJECTORY)
    arm.pull(Q + 0.4)
    arm.run(0.3)
    assert arm.controllers.switch([], [TRAJECTORY], strict=True) == ""
    assert np.abs(arm.run(1.0) - arm.sent[-20]).max() < 1e-6
    assert within_limits(arm.sent)
