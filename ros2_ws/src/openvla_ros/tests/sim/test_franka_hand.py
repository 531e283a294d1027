"""The simulated Franka hand: widths, blocked fingers, and what counts as grasped, as libfranka says it."""

import pytest

from openvla_ros.profile import load_profile
from openvla_ros.sim.franka_hand import ABORTED, FAILED, Ending, FrankaHand, Goal

PROFILE = load_profile("sim_franka_ros2")
PERIOD_S = 0.01


class Bench:
    def __init__(self):
        self.hand, self.finger_m = FrankaHand(PROFILE), PROFILE.gripper.open_m

    def run(self, seconds, block_m=0.0):
        for _ in range(round(seconds / PERIOD_S)):
            self.finger_m = max(self.hand.sample(PERIOD_S, self.finger_m), block_m)
        return self.hand.ending


def test_a_move_goes_to_a_width_at_the_speed_of_the_hand():
    bench = Bench()
    bench.run(0.1)
    bench.hand.begin(Goal("move", 0.04, 0.1))
    assert bench.run(0.2) is None
    assert bench.hand.width_m == pytest.approx(0.06, abs=0.002)  # both fingers: 0.1 m/s for 0.2 s
    assert bench.run(0.3) == Ending(True)
    assert bench.hand.width_m == pytest.approx(0.04, abs=0.001)


@pytest.mark.parametrize(("thing_m", "held"), [(0.03, True), (0.034, True), (0.05, False)])
def test_a_grasp_holds_what_is_as_wide_as_its_tolerances(thing_m, held):
    bench = Bench()
    bench.hand.begin(Goal("grasp", 0.03, 0.1, 0.005, 0.005))
    assert bench.run(2.0, block_m=thing_m / 2) == Ending(held)
    assert bench.hand.sample(PERIOD_S, thing_m / 2) < thing_m / 2 + 1e-9  # it goes on pressing


def test_a_move_that_is_blocked_has_not_succeeded():
    bench = Bench()
    bench.hand.begin(Goal("move", 0.0, 0.1))
    assert bench.run(2.0, block_m=0.02) == Ending(False)


def test_a_width_beyond_the_hand_fails_and_a_stop_aborts():
    bench = Bench()
    bench.hand.begin(Goal("move", 0.2, 0.1))
    assert bench.hand.ending == Ending(False, FAILED)
    bench.hand.begin(Goal("move", 0.0, 0.1))
    bench.run(0.2)
    bench.hand.stop()
    assert bench.hand.ending == Ending(False, ABORTED)
    width = bench.hand.width_m
    bench.run(0.5)
    assert bench.hand.width_m == pytest.approx(width, abs=0.001)


def test_homing_opens_the_hand():
    bench = Bench()
    bench.hand.begin(Goal("move", 0.02, 0.1))
    bench.run(1.5)
    bench.hand.begin(Goal("homing", 0.0, 0.1))
    assert bench.run(1.5) == Ending(True)
    assert bench.hand.width_m == pytest.approx(0.08, abs=0.001)
