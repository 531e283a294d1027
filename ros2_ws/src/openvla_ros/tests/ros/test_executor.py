"""The static executor does what rclpy's own does, with entities that come and go."""

import signal
import threading
import time
from collections.abc import Callable

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

import rclpy
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.task import Future
from std_msgs.msg import String
from std_srvs.srv import Trigger
from support.waiting import DISCOVERY_S, holds_within

from openvla_ros.ros.executor import StaticSingleThreadedExecutor, _Collected

pytestmark = pytest.mark.ros


class Spun:
    """A node under an executor of the kind ``executor``, in a context of its own."""

    def __init__(self, executor: type) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("spun", context=self.context)
        self.executor = executor(context=self.context)
        self.executor.add_node(self.node)

    def until(self, done: Callable[[], bool], timeout_s: float = DISCOVERY_S) -> bool:
        return holds_within(done, timeout_s, lambda: self.executor.spin_once(0.05))

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def spun(ros_domain):
    robot = Spun(StaticSingleThreadedExecutor)
    yield robot
    robot.close()


def everything(spun: Spun) -> list[str]:
    """What one of each kind of entity does: a message, a service's request, a timer, a task and a guard."""
    done: list[str] = []
    node = spun.node
    publisher = node.create_publisher(String, "words", 10)
    node.create_subscription(String, "words", lambda message: done.append(message.data), 10)

    def answer(request, response):
        response.success, response.message = True, "served"
        return response

    node.create_service(Trigger, "ask", answer)
    client = node.create_client(Trigger, "ask")
    assert spun.until(lambda: client.service_is_ready() and publisher.get_subscription_count() == 1)
    for word in ("first", "second", "third"):
        publisher.publish(String(data=word))
    assert spun.until(lambda: len(done) == 3)
    future = client.call_async(Trigger.Request())
    spun.executor.spin_until_future_complete(future, DISCOVERY_S)
    done.append(future.result().message)
    timer = node.create_timer(0.01, lambda: done.append("tick"))
    assert spun.until(lambda: done[-1] == "tick")
    timer.cancel()
    guard = node.create_guard_condition(lambda: done.append("guard"))
    guard.trigger()
    assert spun.until(lambda: done[-1] == "guard")

    awaited = Future(executor=spun.executor)

    async def goal() -> None:
        done.append(f"awaited {await awaited}")

    task = spun.executor.create_task(goal)
    assert not spun.until(task.done, 0.2)
    awaited.set_result("word")
    spun.executor.wake()
    assert spun.until(task.done)
    return done


def test_every_kind_of_entity_is_served_as_by_rclpy(ros_domain):
    results = []
    for kind in (SingleThreadedExecutor, StaticSingleThreadedExecutor):
        spun = Spun(kind)
        try:
            results.append(everything(spun))
        finally:
            spun.close()
    assert results[0] == results[1]
    assert results[1] == ["first", "second", "third", "served", "tick", "guard", "awaited word"]


def test_an_entity_made_by_another_thread_is_served_at_once(spun):
    ticks: list[float] = []

    def make() -> None:
        time.sleep(0.2)  # the executor waits by now
        spun.node.create_timer(0.01, lambda: ticks.append(time.monotonic()))

    maker = threading.Thread(target=make)
    maker.start()
    started_s = time.monotonic()
    spun.executor.spin_once(timeout_sec=5.0)
    maker.join()
    assert ticks
    assert time.monotonic() - started_s < 0.9  # before it would have collected its entities anyway


def test_what_a_callback_destroys_is_called_no_more(spun):
    node, heard = spun.node, []
    publisher = node.create_publisher(String, "words", 10)

    def first(message: String) -> None:
        heard.append("first")
        node.destroy_subscription(second)

    node.create_subscription(String, "words", first, 10)
    second = node.create_subscription(String, "words", lambda message: heard.append("second"), 10)
    assert spun.until(lambda: publisher.get_subscription_count() == 2)
    for _ in range(3):
        publisher.publish(String(data="word"))
    assert spun.until(lambda: heard.count("first") == 3)
    assert "second" not in heard
    assert publisher.get_subscription_count() == 1  # it is gone from the graph too


def test_a_cancelled_timer_is_silent_and_a_reset_one_goes_on(spun):
    ticks = []
    timer = spun.node.create_timer(0.01, lambda: ticks.append(timer.cancel()))
    assert spun.until(lambda: len(ticks) == 1)
    assert not spun.until(lambda: len(ticks) > 1, 0.1)
    timer.reset()
    assert spun.until(lambda: len(ticks) == 2)


def test_a_coroutine_callback_keeps_its_group_and_lets_others_run(spun):
    """A suspended callback of a mutually exclusive group holds that group back, and no other."""
    node, events = spun.node, []
    gate = Future(executor=spun.executor)

    async def slow() -> None:
        timer.cancel()
        events.append("begun")
        await gate
        events.append("done")

    timer = node.create_timer(0.01, slow)
    node.create_timer(0.01, lambda: events.append("same group"))
    node.create_timer(0.01, lambda: events.append("other group"), callback_group=ReentrantCallbackGroup())
    assert spun.until(lambda: "begun" in events)
    del events[:]
    assert spun.until(lambda: events.count("other group") >= 3)
    assert "same group" not in events
    gate.set_result(None)
    assert spun.until(lambda: "done" in events and "same group" in events)


def test_a_callback_may_spin(spun):
    """A node that stops waits for an answer inside a callback."""
    node, heard = spun.node, []

    def answer(request, response):
        response.success = True
        return response

    node.create_service(Trigger, "ask", answer)
    client = node.create_client(Trigger, "ask")
    assert spun.until(client.service_is_ready)

    def ask() -> None:
        timer.cancel()
        future = client.call_async(Trigger.Request())
        spun.executor.spin_until_future_complete(future, DISCOVERY_S)
        heard.append(future.result().success)

    timer = node.create_timer(0.01, ask)
    assert spun.until(lambda: heard == [True])


@pytest.mark.parametrize("entity", ["timer", "task"])
def test_what_a_callback_raises_comes_out_and_nothing_is_lost(spun, entity):
    ticks = []

    def fail() -> None:
        if entity == "timer":
            broken.cancel()
        raise ZeroDivisionError(entity)

    if entity == "timer":
        broken = spun.node.create_timer(0.01, fail)
    else:
        spun.executor.create_task(fail)
    spun.node.create_timer(0.01, lambda: ticks.append(1))
    with pytest.raises(ZeroDivisionError, match=entity):
        spun.until(lambda: False, 1.0)
    assert spun.until(lambda: len(ticks) >= 3)


def test_waiting_ends_in_time_and_for_a_future(spun):
    started_s = time.monotonic()
    spun.executor.spin_once(timeout_sec=0.2)
    assert 0.19 < time.monotonic() - started_s < 2.0
    future = Future()
    threading.Timer(0.1, future.set_result, [None]).start()
    started_s = time.monotonic()
    spun.executor.spin_until_future_complete(future, timeout_sec=20.0)
    assert future.done()
    assert time.monotonic() - started_s < 5.0


def test_a_context_that_is_shut_down_ends_the_wait(spun):
    started_s = time.monotonic()
    threading.Timer(0.1, spun.context.shutdown).start()
    with pytest.raises(ExternalShutdownException):
        spun.until(lambda: False, 10.0)
    assert time.monotonic() - started_s < 4.0


def test_a_shut_down_executor_lets_go_of_its_entities(spun):
    subscription = spun.node.create_subscription(String, "words", lambda message: None, 10)
    publisher = spun.node.create_publisher(String, "words", 10)
    assert spun.until(lambda: publisher.get_subscription_count() == 1)
    spinning = threading.Thread(target=spun.executor.spin_once, args=(5.0,))
    spinning.start()
    time.sleep(0.2)
    spun.executor.shutdown()  # while the other thread waits
    spinning.join(3.0)
    assert not spinning.is_alive()
    spun.node.destroy_subscription(subscription)
    assert publisher.get_subscription_count() == 0


def test_a_shutdown_while_entities_are_collected_ends_the_wait(spun, monkeypatch):
    """Another thread shuts down after the wait has begun and before its guard condition is collected."""
    collect, shutdowns = _Collected._collect, []

    def collect_slowly(collected, node) -> None:
        collect(collected, node)
        shutdowns.append(threading.Thread(target=spun.executor.shutdown, daemon=True))
        shutdowns[0].start()
        time.sleep(0.2)

    monkeypatch.setattr(_Collected, "_collect", collect_slowly)
    started_s = time.monotonic()
    spun.executor.spin_once(timeout_sec=4.0)
    assert time.monotonic() - started_s < 3.0
    shutdowns[0].join(5.0)
    assert not shutdowns[0].is_alive()


def test_a_signal_handler_may_shut_down_the_executor_it_interrupts(spun):
    subscription = spun.node.create_subscription(String, "words", lambda message: None, 10)
    publisher = spun.node.create_publisher(String, "words", 10)
    spun.node.create_timer(0.01, lambda: None)
    assert spun.until(lambda: publisher.get_subscription_count() == 1)
    came: list[bool] = []  # whether the handler interrupted the wait

    def handle(*_signal) -> None:
        came.append(spun.executor._waiting)
        if not came[-1]:
            signal.setitimer(signal.ITIMER_REAL, 0.003)
            return
        free = spun.executor._in_use.acquire(timeout=2.0)  # if not, ``shutdown`` would never return
        assert free
        spun.executor._in_use.release()
        spun.executor.shutdown()

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        spun.executor.spin()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert came[-1]
    spun.node.destroy_subscription(subscription)
    assert publisher.get_subscription_count() == 0


def test_nothing_runs_after_a_shutdown(spun):
    """What was ready together with the callback that shuts down is not run, and nothing is raised."""
    done = []

    def end() -> None:
        done.append("end")
        spun.executor.shutdown()

    spun.node.create_timer(0.01, end)
    spun.node.create_timer(0.01, lambda: done.append("timer"))
    spun.node.create_guard_condition(lambda: done.append("guard")).trigger()
    spun.executor.spin_once(0.0)  # the guard
    del done[:]
    spun.node.create_guard_condition(lambda: done.append("guard")).trigger()
    time.sleep(0.05)
    for _ in range(4):
        spun.executor.spin_once(0.01)
    assert done == ["end"]


@pytest.mark.parametrize("entity", ["timer", "subscription"])
def test_a_callback_that_spins_is_not_called_again_meanwhile(spun, entity):
    node, depth, deepest, others = spun.node, [0], [0], []
    publisher = node.create_publisher(String, "words", 10)

    def spin_inside(*_message) -> None:
        depth[0] += 1
        deepest[0] = max(deepest[0], depth[0])
        if depth[0] < 5:
            spun.executor.spin_once(0.05)
        depth[0] -= 1

    def speak() -> None:
        others.append("word")
        for _ in range(3):
            publisher.publish(String(data="word"))

    node.create_timer(0.005, speak)
    if entity == "timer":
        node.create_timer(0.005, spin_inside)
    else:
        node.create_subscription(String, "words", spin_inside, 10)
    assert spun.until(lambda: deepest[0] > 0)
    spun.until(lambda: False, 0.5)
    assert deepest[0] == 1
    assert len(others) > 20


def test_a_context_that_was_shut_down_before_is_said(spun):
    spun.executor.wake()  # so that everything is collected anew
    spun.context.shutdown()
    with pytest.raises(ExternalShutdownException):
        spun.executor.spin_once(0.1)
