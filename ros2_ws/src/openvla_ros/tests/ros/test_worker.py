"""The slot between the executor and a worker: the newest value wins, and nothing queues."""

import threading

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from openvla_ros.ros.worker import LatestValue, Worker


def test_the_newest_value_replaces_the_one_that_waits():
    slot: LatestValue[int] = LatestValue()
    for value in range(5):
        slot.put(value)
    assert (slot.take(0.0), slot.take(0.0), slot.replaced) == (4, None, 4)


def test_only_a_value_that_waits_is_renewed():
    slot: LatestValue[int] = LatestValue()
    assert not slot.renew(1)
    assert not slot.occupied
    slot.put(2)
    assert slot.renew(3)
    assert slot.occupied
    assert (slot.take(0.0), slot.take(0.0), slot.replaced) == (3, None, 1)
    assert not slot.renew(4)


def test_a_busy_worker_goes_on_with_the_newest_value():
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()
    worked: list[int] = []

    def work(value: int) -> None:
        worked.append(value)
        begun.set()
        if value:
            done.set()
        assert go_on.wait(30)

    failures: list[Exception] = []
    worker = Worker("test", work, failures.append)
    try:
        worker.put(0)
        assert begun.wait(30)
        assert not worker.waiting
        assert not worker.renew(1)
        worker.put(2)
        assert worker.waiting
        assert worker.renew(3)
        go_on.set()
        assert done.wait(30)
    finally:
        go_on.set()
        assert worker.stop(30)
    assert (worked, failures, worker.replaced) == ([0, 3], [], 1)
