"""A single-threaded executor that keeps what it waits for, as rclcpp's StaticSingleThreadedExecutor does.

rclpy 9.1.2 (and 7.1.6) collects every subscription, timer, service and event of its nodes anew for each
callback, and wakes itself twice for each one that has run. With the 47 entities of the controller that is
more than the callbacks themselves take. Here they are collected again only when one was created or destroyed
(rclpy calls ``wake`` then), and at least every ``REFRESH_S``.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node
from rclpy.subscription import Subscription
from rclpy.waitable import NumberOfEntities

# Entities that appear without a call of ``wake`` are waited for after this time.
REFRESH_S = 1.0

Work = Callable[[], None]


class StaticSingleThreadedExecutor(SingleThreadedExecutor):
    """Runs callbacks on the thread that spins, in the order of rclpy's own executor.

    A timer's callback gets no ``TimerInfo``. While a coroutine callback of a topic, a service or a timer is
    suspended, rclpy's own executor does the work. A callback that spins is not called again meanwhile; others
    are, also those of its callback group.
    """

    def __init__(self, **options: Any) -> None:
        self._stale = True
        self._refresh_s = 0.0  # when to collect again
        self._collected: _Collected | None = None
        # Of ``_collected``: held while it is waited for. A signal handler may interrupt that and shut down.
        self._in_use = threading.RLock()
        self._waiting = False  # with ``_in_use`` held
        self._running: list[Any] = []  # handles of the entities whose callbacks run: several if they spin
        self._ready: deque[Work] = deque()
        self._unpolled = False  # whether anything has happened that a suspended task may wait for
        super().__init__(**options)

    def add_node(self, node: Node) -> bool:
        """As rclpy's."""
        added = bool(super().add_node(node))
        self.wake()
        return added

    def remove_node(self, node: Node) -> None:
        """As rclpy's."""
        super().remove_node(node)
        self.wake()

    def wake(self) -> None:
        """Wake the executor because something was created or destroyed; call this from any thread."""
        self._stale = True
        # What has been destroyed goes at once if nobody waits for it; otherwise the waiting thread lets go.
        if self._in_use.acquire(blocking=False):
            try:
                self._release_unless_waiting()
            finally:
                self._in_use.release()
        super().wake()

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """As rclpy's."""
        done = bool(super().shutdown(timeout_sec))
        with self._in_use:
            self._release_unless_waiting()
        return done

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """As rclpy's."""
        self._run_one(timeout_sec, _never)

    def spin_once_until_future_complete(self, future: Any, timeout_sec: Any = None) -> None:
        """As rclpy's."""
        future.add_done_callback(lambda _: self.wake())
        self._spin_once_until_future_complete(future, timeout_sec)

    def _spin_once_until_future_complete(self, future: Any, timeout_sec: Any = None) -> None:
        # Since Kilted ``spin_until_future_complete`` calls this, with a ``TimeoutObject``.
        self._run_one(getattr(timeout_sec, "timeout", timeout_sec), future.done)

    def _run_one(self, timeout_s: float | None, finished: Callable[[], bool]) -> None:
        """Run one callback; wait for it for at most ``timeout_s``, unless it is None or negative."""
        if self._has_suspended_callback():
            if not finished():
                super().spin_once(timeout_s)
            return
        forever = timeout_s is None or timeout_s < 0.0
        end_s = time.monotonic() + (timeout_s or 0.0)
        while not self._ready or self._is_shutdown:
            if finished() or self._is_shutdown:
                return
            if self._queue_tasks():
                break
            left_s = -1.0 if forever else max(0.0, end_s - time.monotonic())
            self._wait(left_s)
            if not self._ready and not self._pending_tasks() and not forever and time.monotonic() >= end_s:
                return
        self._ready.popleft()()

    # Tasks: done callbacks of futures, and coroutines such as an action's goal

    def _pending_tasks(self) -> list[Any]:
        with self._tasks_lock:
            self._tasks[:] = [entry for entry in self._tasks if not (entry[0].done() or entry[0].cancelled())]
            return [task for task, _, _ in self._tasks if not task.executing()]

    def _queue_tasks(self) -> bool:
        if not self._unpolled:
            return False
        self._unpolled = False
        tasks = self._pending_tasks() if self._tasks else []
        self._ready.extend(partial(self._run_task, task) for task in tasks)
        return bool(tasks)

    def _run_task(self, task: Any) -> None:
        task()
        if not task.done():
            return
        self._unpolled = True
        if (exception := task.exception()) is not None:
            raise exception

    def _has_suspended_callback(self) -> bool:
        return any(entity is not None and not task.done() for task, entity, _ in self._tasks)

    # Entities

    def _wait(self, timeout_s: float) -> None:
        """Wait until an entity is ready, at most ``timeout_s`` (negative: for ever), and queue its work."""
        self._unpolled = True
        with self._in_use:
            self._waiting = True
            try:
                work = self._wait_for_collected(timeout_s)
            except InvalidHandle:  # destroyed since it was collected
                self._stale = True
                return
            finally:
                self._waiting = False
                if self._is_shutdown:
                    self._release()
        if self._is_shutdown:
            return
        if not self._context.ok():
            raise ExternalShutdownException
        self._ready.extend(work)

    def _wait_for_collected(self, timeout_s: float) -> list[Work]:
        if not self._context.ok():
            return []
        if self._stale or self._collected is None or time.monotonic() > self._refresh_s:
            self._stale = False
            self._refresh_s = time.monotonic() + REFRESH_S
            self._release()
            self._collected = _Collected(self)
        # After collecting: what ``shutdown`` destroyed before is not in it, and would not end the wait.
        return [] if self._is_shutdown else self._collected.wait(timeout_s)

    def _release_unless_waiting(self) -> None:
        # Waiting: called by a signal handler on the waiting thread, which lets go when it has waited.
        if not self._waiting:
            self._release()

    def _release(self) -> None:
        """Let go of all handles, so that those destroyed meanwhile are; with ``_in_use`` held."""
        if self._collected is not None:
            self._collected.close()
            self._collected = None

    def by_task(self, entity: Any, node: Node, take: Callable[[Any], Any]) -> Work:
        """Return work that runs as a task of rclpy's own executor."""

        def run() -> None:
            if entity.callback_group is not None and entity.callback_group.can_execute(entity):
                self._run_task(self._make_handler(entity, node, take))

        return run

    def run_timer(self, timer: Any) -> None:
        """Call a timer's callback."""
        self._unpolled = True
        try:
            with timer.handle:
                if not timer.handle.is_timer_ready():  # cancelled, or reset
                    return
                timer.handle.call_timer()
        except InvalidHandle:
            return
        if timer.callback is not None:
            self._call(timer, timer.callback)

    def run_subscription(self, subscription: Any, message_only: bool) -> None:
        """Take a message and call its callback."""
        self._unpolled = True
        try:
            with subscription.handle:
                taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
        except InvalidHandle:
            return
        if taken is not None:
            self._call(subscription, subscription.callback, *(taken[:1] if message_only else taken))

    def run_service(self, service: Any) -> None:
        """Take a request, call its callback and send the response."""
        self._unpolled = True
        try:
            with service.handle:
                request, header = service.handle.service_take_request(service.srv_type.Request)
        except InvalidHandle:
            return
        if header is not None:
            response = self._call(service, service.callback, request, service.srv_type.Response())
            service.send_response(response, header)

    def _call(self, entity: Any, callback: Callable[..., Any], *arguments: Any) -> Any:
        self._running.append(entity.handle)
        try:
            return callback(*arguments)
        finally:
            self._running.pop()


class _Collected:
    """The entities of an executor's nodes, and a wait set that has room for them."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self._handles = ExitStack()  # holds the entities: what is destroyed meanwhile stays valid
        # What to add to the wait set before each wait, and what to run by the pointer of what is ready.
        self._adds: list[tuple[str, Any]] = []
        self._work: dict[Any, dict[int, Work]] = {}
        self._guards: dict[int, tuple[Any, Work]] = {}
        self._waitables: list[tuple[Any, Work]] = []
        self._size = NumberOfEntities()
        try:
            for node in executor.get_nodes():
                self._collect(node)
            for guard in (executor._guard, executor._sigint_gc):
                if guard is not None and self._hold(guard.handle):
                    self._adds.append(("add_guard_condition", guard.handle))
                    self._size.num_guard_conditions += 1
            self._make_wait_set(executor._context.handle)
        except BaseException:
            self._handles.close()
            raise

    def close(self) -> None:
        """Let go of the entities."""
        self._handles.close()

    def wait(self, timeout_s: float) -> list[Work]:
        """Wait for at most ``timeout_s`` (negative: for ever); return the work of what is ready.

        Raises ``InvalidHandle`` if an entity was destroyed.
        """
        wait_set = self._wait_set
        wait_set.clear_entities()
        running = self._executor._running
        for add, handle in self._bound_adds:
            if not running or handle not in running:
                add(handle)
        for waitable, _ in self._waitables:
            waitable.add_to_wait_set(wait_set)
        wait_set.wait(-1 if timeout_s < 0.0 else round(timeout_s * 1e9))
        work = [run for waitable, run in self._waitables if waitable.is_ready(wait_set)]
        for kind, runs in self._work.items():
            if runs:
                work += [runs[pointer] for pointer in wait_set.get_ready_entities(kind) if pointer in runs]
        if self._guards:
            for pointer in wait_set.get_ready_entities("guard_condition"):
                if pointer in self._guards:
                    guard, run = self._guards[pointer]
                    guard._executor_triggered = True
                    work.append(run)
        return work

    def _collect(self, node: Node) -> None:
        executor = self._executor
        timers = {e: partial(executor.run_timer, e) for e in node.timers}
        subscriptions = {
            e: partial(executor.run_subscription, e, _takes_message_only(e)) for e in node.subscriptions
        }
        services = {e: partial(executor.run_service, e) for e in node.services}
        clients = {e: executor.by_task(e, node, executor._take_client) for e in node.clients}
        for kind, runs, take in (
            ("timer", timers, executor._take_timer),
            ("subscription", subscriptions, executor._take_subscription),
            ("client", clients, None),
            ("service", services, executor._take_service),
        ):
            found = self._work.setdefault(kind, {})
            for entity, run in runs.items():
                if not self._hold(entity.handle):
                    continue
                if take is not None and inspect.iscoroutinefunction(entity.callback):
                    run = executor.by_task(entity, node, take)
                found[entity.handle.pointer] = run
                self._adds.append((f"add_{kind}", entity.handle))
                name = f"num_{kind}s"
                setattr(self._size, name, getattr(self._size, name) + 1)
        for guard in node.guards:
            if self._hold(guard.handle):
                run = executor.by_task(guard, node, executor._take_guard_condition)
                self._guards[guard.handle.pointer] = guard, run
                self._adds.append(("add_guard_condition", guard.handle))
                self._size.num_guard_conditions += 1
        for waitable in node.waitables:
            if self._hold(waitable):
                self._waitables.append((waitable, executor.by_task(waitable, node, executor._take_waitable)))
                self._size += waitable.get_num_entities()

    def _hold(self, handle: Any) -> bool:
        try:
            self._handles.enter_context(handle)
        except InvalidHandle:
            return False
        return True

    def _make_wait_set(self, context: Any) -> None:
        self._handles.enter_context(context)
        size = self._size
        self._wait_set = _rclpy.WaitSet(
            size.num_subscriptions,
            size.num_guard_conditions,
            size.num_timers,
            size.num_clients,
            size.num_services,
            size.num_events,
            context,
        )
        self._bound_adds = [(getattr(self._wait_set, name), handle) for name, handle in self._adds]


def _takes_message_only(subscription: Any) -> bool:
    kinds = getattr(Subscription, "CallbackType", None)  # before Iron, callbacks get no message info
    return kinds is None or subscription._callback_type is kinds.MessageOnly


def _never() -> bool:
    return False
