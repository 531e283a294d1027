"""A stop is answered, and the arm brakes, while everything else is flooded and both cores are busy.

The processes are those of ``make bench-stop``, which measures how fast exactly; the bounds here are those
of a busy machine. These tests guard a stop: none of them gets a second try.
"""

import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.shared_data import PACKAGE_SOURCE, REPOSITORY

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
pytest.importorskip("bench_stop", reason="the benchmarks are not beside the package")

import bench_stop
import rclpy
import stop_flood
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Bool
from support.node_processes import Listener
from support.waiting import holds_within, wait_until

from openvla_ros.bringup.dds import dds_environment
from openvla_ros.nodes.control.core_lock import CoreLock
from openvla_ros.nodes.control.stop_button import StopButton
from openvla_ros.nodes.control.stop_memory import StopMemory
from openvla_ros.nodes.control.stop_services import StopServices
from openvla_ros.values.verdict import Reason, SafetyVerdict

# Braking from 0.24 rad/s takes 120 ms of the second one. The way takes seven seconds if nobody stops it.
ANSWER_MS, REST_MS = 500.0, 600.0
MOVING_RAD_S = 0.15
# The version of the package to measure; another one shows that these tests can fail.
SOURCES = Path(os.environ.get("OPENVLA_ROS_STOPS_OF", PACKAGE_SOURCE))
HELD = SafetyVerdict.hold(Reason.HELD, "held")


@pytest.fixture(scope="module")
def flood(ros_domain, tmp_path_factory) -> Iterator[tuple[bench_stop.Hand, stop_flood.Switches]]:
    os.environ.update(dds_environment(os.environ))
    profile, robot = bench_stop.slow_profile(tmp_path_factory.mktemp("robot"))
    rclpy.init()
    hand, switches = bench_stop.Hand(profile), stop_flood.Switches.make()
    load = stop_flood.start_all(switches, robot, bench_stop.WRENCH_TOPIC)
    try:
        with bench_stop.Controller(SOURCES, robot, permitted=False) as controller:
            hand.wait_until_there(controller)
            yield hand, switches
    finally:
        switches.end(load)
        hand.node.destroy_node()
        rclpy.shutdown()


@pytest.mark.slow  # it takes both cores: nothing else may be tested beside it
@pytest.mark.ros
@pytest.mark.stops
@pytest.mark.parametrize("service", ["hold", "e_stop"])
def test_a_flood_does_not_delay_the_answer(flood, service):
    hand, switches = flood
    switches.flooding.set()
    time.sleep(bench_stop.RAMP_S)
    took = bench_stop.answers(hand, service, 60, 30.0, random.Random(1))
    switches.flooding.clear()
    assert max(took) < ANSWER_MS, sorted(took)


@pytest.mark.slow
@pytest.mark.ros
@pytest.mark.stops
@pytest.mark.parametrize("way", bench_stop.WAYS)
def test_the_arm_brakes_at_once_in_a_flood(flood, way):
    hand, switches = flood
    begin_to_move(hand)
    switches.flooding.set()
    time.sleep(bench_stop.RAMP_S)
    assert newest_speed(hand) > MOVING_RAD_S
    asked_ns = hand.press() if way.endswith("topic") else hand.ask(way.split(",")[0])[0]
    bench_stop.wait(lambda: newest_speed(hand) == 0.0, 20.0, "rest")
    switches.flooding.clear()
    rest_ns = next(c.at_ns for c in hand.arrived if c.at_ns > asked_ns and c.speed == 0.0)
    assert (rest_ns - asked_ns) * 1e-6 < REST_MS


def begin_to_move(hand: bench_stop.Hand) -> None:
    """Send the arm on its way to whichever of two far poses it is not at."""
    hand.button.publish(Bool(data=False))
    time.sleep(0.1)
    hand.ask("reset_e_stop")
    for pose in ("home", "park"):
        assert hand.ask("give_to_policy")[2].success
        assert hand.ask(pose)[2].success
        hand.arrived.clear()
        if holds_within(lambda: newest_speed(hand) > MOVING_RAD_S, 3.0):
            return
    raise AssertionError("the arm does not move")


def newest_speed(hand: bench_stop.Hand) -> float:
    """Return the speed of the newest command, rad/s."""
    hand.take_commands()
    return hand.arrived[-1].speed if hand.arrived else 0.0


@pytest.mark.slow
@pytest.mark.ros
@pytest.mark.stops
def test_a_button_latched_before_the_controller_listened_holds_the_arm_in_a_flood(flood):
    hand, switches = flood
    hand.button.publish(Bool(data=False))
    time.sleep(0.05)
    hand.ask("reset_e_stop")
    switches.flooding.set()
    with Listener("latched_button") as other:
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        button = other.node.create_publisher(Bool, "e_stop", latched)
        button.publish(Bool(data=True))  # nobody has discovered it yet
        wait_until(lambda: "emergency stop by the topic" in hand.ask("hold")[2].message, 10.0)
        hand.button.publish(Bool(data=False))  # another button: that is not letting go of this one
        time.sleep(0.1)
        refused = hand.ask("reset_e_stop")[2]
        assert not refused.success
        assert "release the button" in refused.message
        button.publish(Bool(data=False))
        other.spin_for(0.3)
        assert hand.ask("reset_e_stop")[2].success
    switches.flooding.clear()


def test_a_stop_goes_before_whoever_waits_for_the_lock():
    lock, done, entered = CoreLock(lambda error: None), [], threading.Event()

    def hog() -> None:
        for _ in range(200):
            with lock:
                entered.set()
                time.sleep(0.001)
            done.append("message")

    threads = [threading.Thread(target=hog) for _ in range(3)]
    for thread in threads:
        thread.start()
    entered.wait(5.0)
    time.sleep(0.02)
    before = len(done)
    assert lock.stop(lambda: HELD) is HELD
    assert len(done) - before < 20  # an ordinary lock may let hundreds pass
    for thread in threads:
        thread.join()


def test_what_a_stop_raises_is_raised_where_it_was_asked_for():
    lock = CoreLock(lambda error: None)

    def fail() -> SafetyVerdict:
        raise ValueError("a fault")

    with pytest.raises(ValueError, match="a fault"):
        lock.stop(fail)
    with lock:  # and the lock is free
        pass


class Core:
    """Counts emergency stops: what the button's callback needs of a controller's core."""

    def __init__(self):
        self.stops = 0

    def e_stop(self, source):
        self.stops += 1


@pytest.mark.parametrize(("publishers", "pressed"), [(2, 1), (1, 0)])
def test_where_ros_does_not_say_who_released_a_button_only_a_single_one_counts(tmp_path, publishers, pressed):
    # rclpy up to Jazzy: the message's information has no publisher_gid.
    services, core, hurried = object.__new__(StopServices), Core(), []
    services.button, services._core = StopButton(), core
    services._memory = StopMemory("0 /controller", tmp_path)
    services._lock = SimpleNamespace(stop=lambda act: act())
    services._stopped = lambda: hurried.append(core.stops)
    services._publishers = lambda: {bytes([i]) for i in range(publishers)}
    services._heard(Bool(data=True), {})
    services._heard(Bool(data=False), {})
    assert (core.stops, services.button.pressed) == (1, pressed)
    assert hurried == [1]  # the control loop sends the first braking command after the stop, at once


def test_letting_go_of_one_button_does_not_release_another():
    button = StopButton()
    assert button.press(b"one")
    assert not button.press(b"one")  # a button that repeats itself
    assert button.press(b"two")
    button.release(b"two", alive={b"one", b"two"})
    assert button.pressed == 1
    button.release(b"two", alive={b"two"})  # the first one is gone
    assert button.pressed == 0
