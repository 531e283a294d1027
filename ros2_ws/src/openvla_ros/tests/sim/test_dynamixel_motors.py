"""The simulated WidowX's motors under xs_sdk: what a command means depends on the mode, as on the robot."""

import numpy as np
import pytest

from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import load_profile
from openvla_ros.sim.dynamixel_motors import DynamixelMotors, finger_of

PROFILE = load_profile("sim_widowx_interbotix")
Q = np.array(PROFILE.arm.neutral)
PERIOD_S = 0.01


class Arm:
    """The motors, moved as told: the joints and the finger are where they are commanded."""

    def __init__(self):
        self.motors = DynamixelMotors(PROFILE, Q)
        self.q, self.finger_m, self.now_s = Q.copy(), PROFILE.gripper.open_m, 0.0

    def run(self, seconds, block_m=0.0):
        for _ in range(round(seconds / PERIOD_S)):
            self.now_s += PERIOD_S
            self.q = self.motors.sample(self.now_s, self.q)
            self.finger_m = max(self.motors.finger(self.finger_m), block_m)
        return self.q

    def go(self, q):
        self.motors.command_group("arm", list(q), self.now_s)


def test_without_a_profile_a_position_is_taken_at_once():
    arm = Arm()
    arm.run(0.1)
    arm.go(Q + 0.1)
    np.testing.assert_allclose(arm.run(PERIOD_S), Q + 0.1)


def test_a_time_profile_plays_each_command_anew_so_that_a_stream_hardly_moves_the_arm():
    arm = Arm()
    arm.motors.set_modes("group", "arm", "position", "time", 2000, 300)
    arm.run(0.1)
    arm.go(Q + 0.2)
    np.testing.assert_allclose(arm.run(1.0), Q + 0.1, atol=2e-3)
    np.testing.assert_allclose(arm.run(1.01), Q + 0.2)
    for step in range(100):  # a stream of a second back again
        arm.go(Q + 0.2 - 0.2 * (step + 1) / 100)
        arm.run(PERIOD_S)
    assert np.all(arm.q > Q + 0.13)


def test_a_velocity_profile_limits_the_speed():
    arm = Arm()
    arm.motors.write_register("group", "arm", "Profile_Velocity", 20)
    arm.run(0.1)
    arm.go(Q + 0.3)
    np.testing.assert_allclose(arm.run(0.5) - Q, 0.5 * 20 * 0.229 * 2 * np.pi / 60, rtol=1e-6)


def test_a_command_out_of_a_motor_s_range_or_of_the_wrong_size_is_not_taken():
    arm = Arm()
    far = Q.copy()
    far[1] = 3.0
    for values, why in ((far, "'shoulder' is told 3.000 rad"), (Q[:5], "5 commands for the 6 joints")):
        with pytest.raises(InvalidValueError, match=why):
            arm.go(values)
    arm.run(PERIOD_S)
    np.testing.assert_allclose(arm.q, Q)
    far[0] += 0.1
    with pytest.raises(InvalidValueError, match="'shoulder' is told"):
        arm.go(far)
    np.testing.assert_allclose(arm.run(PERIOD_S), np.array([Q[0] + 0.1, *Q[1:]]))  # each motor by itself
    with pytest.raises(InvalidValueError, match=r"no group 'leg'; there are arm, all"):
        arm.motors.command_group("leg", [0.0], 0.0)
    with pytest.raises(InvalidValueError, match="the command of 'waist' is nan"):
        arm.go([np.nan] * 6)


def test_a_limp_motor_goes_where_it_is_pushed_and_stays_there_once_switched_on():
    arm = Arm()
    arm.go(Q)
    arm.motors.set_torque("group", "arm", False)
    arm.run(0.1)
    arm.q = Q + 0.3  # a hand
    arm.run(0.1)
    assert arm.motors.read_register("group", "arm", "Torque_Enable") == [0] * 6
    arm.motors.set_torque("group", "arm", True)
    np.testing.assert_allclose(arm.run(0.5), Q + 0.3)


def test_the_gripper_moves_by_pwm_presses_on_what_stops_it_and_has_no_timeout():
    arm = Arm()
    arm.run(0.1)
    arm.motors.command_single("gripper", -350.0, 0.0)
    arm.run(0.2)
    expected = 0.2 * 350 / 885 * 4.82 * 0.014
    assert PROFILE.gripper.open_m - arm.finger_m == pytest.approx(expected, rel=0.02)
    arm.run(2.0, block_m=0.02)
    assert arm.finger_m == 0.02
    assert arm.motors.finger(0.02) < 0.02
    arm.run(5.0)
    assert arm.finger_m == PROFILE.gripper.closed_m


def test_the_mode_of_a_group_is_its_own():
    arm = Arm()
    arm.motors.set_modes("single", "waist", "pwm", "velocity", 0, 0)
    assert arm.motors.motors["waist"].mode == "pwm"
    assert arm.motors.group_modes["arm"].mode == "position"
    with pytest.raises(InvalidValueError, match="mode is 'spin'; choose from position, ext_position"):
        arm.motors.set_modes("group", "arm", "spin", "velocity", 0, 0)
    with pytest.raises(InvalidValueError, match="cmd_type was 'all'; choices are 'group' and 'single'"):
        arm.motors.set_torque("all", "arm", True)
    with pytest.raises(InvalidValueError, match="register 'Present_Load' is not simulated"):
        arm.motors.read_register("single", "waist", "Present_Load")


def test_the_finger_by_the_motor_s_angle_as_in_the_driver():
    # wx250s: horn 14 mm, arm 24 mm; at 0 the pushrod alone, at a quarter turn horn and rod in line.
    assert finger_of(0.0) == pytest.approx(np.sqrt(0.024**2 - 0.014**2))
    assert finger_of(np.pi / 2) == pytest.approx(0.038)
