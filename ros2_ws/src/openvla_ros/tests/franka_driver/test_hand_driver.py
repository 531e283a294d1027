"""The hand: blocking commands on a thread of its own, openings as widths, grasp below the threshold."""

from collections.abc import Iterator

import pytest
from support.fake_franka_arm import FakeFrankaHand
from support.waiting import wait_until

from openvla_ros.franka_driver.hand_driver import HandDriver
from openvla_ros.profile import load_profile

PROFILE = load_profile("franka_franky")
SPEED, FORCE = PROFILE.gripper_backend.speed_m_s, PROFILE.gripper_backend.force_n


@pytest.fixture
def hand() -> FakeFrankaHand:
    return FakeFrankaHand()


@pytest.fixture
def driver(hand: FakeFrankaHand) -> Iterator[HandDriver]:
    driver = HandDriver(lambda: hand, PROFILE, lambda severity, text: None)
    driver.start()
    yield driver
    hand.go_on.set()
    assert driver.stop()


@pytest.mark.parametrize(
    ("opening", "told"),
    [
        (1.0, ("move", 0.08, SPEED)),
        (0.75, ("move", 0.06, SPEED)),
        (0.0, ("grasp", 0.0, SPEED, FORCE, 0.08)),
    ],
)
def test_an_opening_becomes_the_width_between_both_fingers(driver, hand, opening, told):
    driver.want(opening)
    wait_until(lambda: hand.told)
    assert hand.told[0][0] == told[0]
    assert hand.told[0][1:] == pytest.approx(told[1:])
    wait_until(lambda: driver.position_m == pytest.approx(told[1] / 2.0))


def test_while_a_command_blocks_the_width_is_read_and_the_newest_wish_follows(driver, hand):
    hand.go_on.clear()
    driver.want(1.0)
    wait_until(lambda: hand.told)
    driver.want(0.3)
    driver.want(0.0)
    hand.width = 0.033
    wait_until(lambda: driver.position_m == pytest.approx(0.0165))
    hand.go_on.set()
    wait_until(lambda: len(hand.told) == 2)
    assert hand.told[1][0] == "grasp"


def test_what_changes_little_is_not_sent_again(driver, hand):
    driver.want(1.0)
    wait_until(lambda: hand.told)
    driver.want(0.99)
    wait_until(lambda: driver.position_m == pytest.approx(0.04))
    assert len(hand.told) == 1


def test_a_hand_that_comes_back_is_told_again(driver, hand):
    driver.want(1.0)
    wait_until(lambda: hand.told)
    hand.lost = True
    wait_until(lambda: driver.position_m is None)
    assert "hand gone" in driver.health().message
    hand.lost = False
    wait_until(lambda: len(hand.told) == 2)
