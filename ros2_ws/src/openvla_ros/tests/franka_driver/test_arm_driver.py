"""The driver of a Franka arm: what is lost ends in a stop within the limits; nothing is joined halfway."""

import numpy as np
import pytest
from support.fake_franka_arm import REFLEX, FakeFrankaArm

from openvla_ros.errors import DeviceError, InvalidValueError
from openvla_ros.franka_driver.arm_driver import IDLE_S, RETRY_S, ArmDriver, Phase
from openvla_ros.franka_driver.setpoint_buffer import LATE_S, START_RAD_S, Setpoint
from openvla_ros.franka_driver.velocity_envelope import fastest_down, fastest_up
from openvla_ros.profile import load_profile
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimiter, MotionLimits

PROFILE = load_profile("franka_franky")
LIMITS = MotionLimits.from_profile(PROFILE.limits)
HOME, PARK = np.array(PROFILE.arm.home), np.array(PROFILE.arm.park)
PERIOD_S, SETPOINT_S = 0.005, 0.01
LEASH_RAD, NEAR_RAD = 0.1, 0.2
# A cubic between setpoints may exceed their accelerations by this.
ACCELERATION = 1.1


class Cell:
    """An arm, its driver, and a stream of setpoints towards a goal; time is simulated."""

    def __init__(self, position=HOME) -> None:
        self.arm = FakeFrankaArm(position)
        self.refused_connections = 0
        self.reports: list[tuple[str, str]] = []
        self.driver = ArmDriver(
            self.connect, LIMITS, PERIOD_S, SETPOINT_S, LEASH_RAD, NEAR_RAD,
            lambda severity, text: self.reports.append((severity, text)),
        )  # fmt: skip
        self.now_s, self.cycle = 100.0, 0
        self.limiter = MotionLimiter(LIMITS, SETPOINT_S, target_stop_s=None)
        self.motion = JointMotion.at_rest(np.array(position))
        self.goal = np.array(position)
        self.sends = True

    def connect(self) -> FakeFrankaArm:
        if self.refused_connections:
            self.refused_connections -= 1
            raise DeviceError("connection refused")
        return self.arm

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / PERIOD_S)):
            if self.sends and self.cycle % 2 == 0:
                self.motion = self.limiter.follow(self.motion, JointMotion.at_rest(self.goal))
                self.driver.take(Setpoint(self.now_s, self.motion.position, self.motion.velocity), self.now_s)
            self.driver.step(self.now_s)
            self.now_s += PERIOD_S
            self.cycle += 1

    def check(self) -> None:
        """Every reference is within the limits, and within those that shrink towards the joint limits."""
        places = np.array([position for position, _ in self.arm.told])
        rate = np.diff(places, axis=0) / PERIOD_S
        assert np.all(np.abs(rate) <= LIMITS.velocity * 1.001)
        assert np.all(np.abs(np.diff(rate, axis=0) / PERIOD_S) <= LIMITS.acceleration * ACCELERATION * 1.001)
        assert np.all((places >= LIMITS.lower - 1e-6) & (places <= LIMITS.upper + 1e-6))
        for before, v in zip(places[:-1], rate, strict=True):
            assert np.all((v <= fastest_up(before) + 1e-9) & (v >= fastest_down(before) - 1e-9))

    def in_motion(self) -> None:
        """Bring the arm into a fast motion."""
        self.run(0.8)
        self.goal = PARK
        self.run(0.4)
        assert self.driver.phase is Phase.TRACKING
        assert np.abs(self.motion.velocity).max() > 0.3


def test_setpoints_are_followed_within_the_limits_to_their_end():
    cell = Cell()
    cell.in_motion()
    cell.run(3.0)
    np.testing.assert_allclose(cell.arm.position, PARK, atol=1e-6)
    cell.check()


def test_without_setpoints_it_brakes_by_itself_and_ends_control():
    cell = Cell()
    cell.in_motion()
    cell.sends = False
    count = len(cell.arm.told)
    cell.run(2.0)
    assert cell.driver.phase is Phase.IDLE
    assert cell.arm.calls == ["start", "end"]
    braked_s = (len(cell.arm.told) - count) * PERIOD_S
    assert IDLE_S < braked_s < 1.5  # at rest after that
    assert np.abs(cell.arm.told[-1][1]).max() == 0.0
    cell.check()


def test_late_setpoints_change_where_it_goes_but_never_how_fast():
    cell, chance = Cell(), np.random.default_rng(1)
    cell.in_motion()
    for _ in range(40):
        cell.sends = bool(chance.random() < 0.7)
        cell.run(0.05)
    cell.sends = True
    cell.run(4.0)
    np.testing.assert_allclose(cell.arm.position, PARK, atol=1e-4)
    cell.check()


@pytest.mark.parametrize("age_s", [LATE_S + 0.01, -1.0])
def test_a_setpoint_of_another_time_is_refused(age_s):
    cell = Cell()
    with pytest.raises(InvalidValueError, match="s old"):
        cell.driver.take(Setpoint(cell.now_s - age_s, HOME, np.zeros(7)), cell.now_s)


@pytest.mark.parametrize("bad", [np.full(7, np.nan), np.zeros(6)])
def test_a_setpoint_that_is_none_is_refused(bad):
    cell = Cell()
    with pytest.raises(InvalidValueError):
        cell.driver.take(Setpoint(cell.now_s, bad, np.zeros(7)), cell.now_s)


def test_a_clock_that_goes_back_is_followed():
    cell = Cell()
    cell.in_motion()
    cell.now_s -= 50.0
    cell.run(3.0)
    np.testing.assert_allclose(cell.arm.position, PARK, atol=1e-4)
    cell.check()


def test_a_motion_is_not_joined_halfway():
    cell = Cell()
    cell.run(0.02)
    cell.driver.phase = Phase.IDLE
    cell.arm.calls.clear()
    moving = np.full(7, 2.0 * START_RAD_S)
    for _ in range(20):
        cell.driver.take(Setpoint(cell.now_s, HOME, moving), cell.now_s)
        cell.driver.step(cell.now_s)
        cell.now_s += SETPOINT_S
    assert cell.arm.calls == []


def test_setpoints_far_from_the_arm_are_not_taken_up():
    cell = Cell()
    cell.arm.position = HOME + np.array([0.0, 1.5 * NEAR_RAD, 0, 0, 0, 0, 0])
    cell.run(1.0)
    assert cell.driver.phase is Phase.IDLE
    assert "0.300 rad from the arm" in cell.reports[-1][1]


def test_an_arm_that_was_lost_goes_to_setpoints_away_from_it_only_once_they_move():
    cell = Cell()
    cell.arm.position = HOME + np.array([0.0, 0.1, 0, 0, 0, 0, 0])
    cell.run(4.0)
    assert cell.arm.calls == []
    assert "when a pose is asked for" in cell.reports[-1][1]
    cell.goal = HOME + np.array([0.0, 0.05, 0, 0, 0, 0, 0])  # they come to the arm
    cell.run(2.0)
    assert cell.arm.calls == []
    cell.goal = HOME
    cell.run(4.0)
    np.testing.assert_allclose(cell.arm.position, cell.goal, atol=1e-4)


def test_a_recovered_arm_that_stands_a_little_away_is_brought_there_slowly():
    cell = Cell()
    cell.arm.position = HOME + np.array([0.0, 0.1, 0, 0, 0, 0, 0])
    cell.arm.errors = REFLEX
    cell.run(0.1)
    assert cell.driver.ask_for_recovery() is None
    cell.run(4.0)
    np.testing.assert_allclose(cell.arm.position, HOME, atol=1e-4)
    places = np.array([position for position, _ in cell.arm.told])
    assert np.abs(np.diff(places, axis=0) / PERIOD_S).max() <= 0.11 * LIMITS.velocity.max()


def test_the_reference_never_leaves_the_leash_of_an_arm_that_is_held_fast():
    cell = Cell()
    cell.run(0.8)
    cell.arm.follows, cell.goal = False, PARK
    cell.run(1.0)
    places = np.array([position for position, _ in cell.arm.told])
    assert np.abs(places - HOME).max() <= LEASH_RAD + 1e-9
    assert np.abs(places - HOME).max() > 0.9 * LEASH_RAD


def test_after_a_reflex_it_stays_until_a_person_asks():
    cell = Cell()
    cell.in_motion()
    cell.arm.reflex()
    cell.run(5.0)
    assert cell.driver.phase is Phase.ABORTED
    assert cell.arm.calls == ["start"]
    assert "aborted by reflex" in cell.reports[-1][1]
    assert cell.driver.ask_for_recovery() is None
    cell.motion = JointMotion.at_rest(cell.arm.position)
    cell.run(2.0)
    assert cell.arm.calls[:3] == ["start", "recover", "start"]
    assert cell.driver.phase is Phase.TRACKING


def test_a_recovery_that_fails_is_said_and_can_be_asked_for_again():
    cell = Cell()
    cell.in_motion()
    cell.arm.reflex()
    cell.arm.refuses_recovery = True
    cell.run(0.1)
    cell.driver.ask_for_recovery()
    cell.run(0.1)
    assert cell.driver.phase is Phase.ABORTED
    assert "recovery failed" in cell.reports[-1][1]
    assert cell.driver.ask_for_recovery() is None


def test_recovery_without_a_need_is_refused():
    cell = Cell()
    cell.in_motion()
    assert "needs no recovery" in (cell.driver.ask_for_recovery() or "")


def test_an_arm_that_reports_an_error_at_first_is_not_moved():
    cell = Cell()
    cell.arm.errors = REFLEX
    cell.run(0.5)
    assert cell.driver.phase is Phase.ABORTED
    assert cell.arm.calls == []


def test_an_arm_in_another_mode_is_waited_for():
    cell = Cell()
    cell.arm.mode = "Guiding"
    cell.run(0.5)
    assert cell.arm.calls == []
    assert "mode Guiding" in cell.driver.health().message
    cell.arm.mode = "Idle"
    cell.run(0.8)
    assert cell.driver.phase is Phase.TRACKING


def test_an_arm_that_is_moved_by_hand_is_not_controlled_before_it_stands():
    cell = Cell()
    for number in range(100):
        cell.arm.position = HOME + (0.008 if number % 2 else -0.008)
        cell.run(0.02)
    assert cell.arm.calls == []
    assert "is moved" in cell.driver.health().message
    cell.arm.position = HOME
    cell.run(1.0)
    assert cell.arm.calls == ["start"]


def test_a_lost_arm_is_connected_to_again_and_not_moved_on():
    cell = Cell()
    cell.in_motion()
    told = len(cell.arm.told)
    cell.arm.lost, cell.refused_connections = True, 2
    cell.run(0.1)
    assert cell.driver.phase is Phase.LOST
    cell.arm = FakeFrankaArm(HOME + 0.5)
    cell.run(3.0 * RETRY_S)
    assert cell.driver.phase is Phase.IDLE
    assert cell.arm.calls == []
    assert len(cell.arm.told) < told
    assert cell.driver.health().values["lost"] == "1"


def test_shut_down_brakes_and_ends_control():
    cell = Cell()
    cell.in_motion()
    for _ in range(400):
        if cell.driver.shut_down(cell.now_s):
            break
        cell.now_s += PERIOD_S
    assert not cell.arm.controlled
    assert cell.arm.calls == ["start", "end"]
    cell.check()


@pytest.mark.parametrize("name", ["franka", "franka_droid", "franka_franky"])
def test_a_profile_of_the_fr3_stops_within_the_velocities_that_shrink_towards_the_joint_limits(name):
    """The fastest approach to each limit, from everywhere, as the motion limiter allows it."""
    limits = MotionLimits.from_profile(load_profile(name).limits)
    for direction, ends in ((1.0, limits.upper), (-1.0, limits.lower)):
        distance = np.linspace(0.0, 3.0, 3001)[:, None]
        at = ends - direction * distance
        allowed = np.array([fastest_up(q) if direction > 0 else -fastest_down(q) for q in at])
        approach = np.minimum(limits.velocity, np.sqrt(2.0 * limits.acceleration * distance))
        inside = (at >= limits.lower) & (at <= limits.upper)
        assert np.all((approach <= allowed) | ~inside)
