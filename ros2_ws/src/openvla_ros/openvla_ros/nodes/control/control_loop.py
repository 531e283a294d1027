"""A fixed-rate thread, independent of the executor, for a 100 Hz joint stream.

Python's executor runs callbacks one after another, so a timer on it waits for the callback in progress.
This thread waits for absolute deadlines instead, on the monotonic clock, or on the ROS clock if time is
simulated. A stop need not wait for the deadline: ``hurry`` begins the next period at once.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from rclpy.clock import Clock, ClockType

from openvla_ros.nodes.control import realtime
from openvla_ros.nodes.control.garbage_rounds import GarbageRounds
from openvla_ros.nodes.control.stall_watch import StallWatch
from openvla_ros.values.health import Health, LatencyHealth
from openvla_ros.values.time import nanoseconds, seconds

# When late by more than this many periods, missed deadlines are skipped instead of caught up.
GIVE_UP_PERIODS = 5
# How long one thread may keep the interpreter before another that waits gets it (default 5 ms).
SWITCH_INTERVAL_S = 0.0005
# A period that takes this many is diagnosed.
STALL_PERIODS = 2.0
# Wall seconds between two readings of a simulated clock, and after how many of them time is accounted for.
SLICE_S, SLICES_PER_NOTE = 0.001, 4
# Lateness that counts as a problem, 95th percentile.
LATE_LIMIT_S = 0.002


class ControlLoop:
    """Calls ``work`` every ``period_s`` until ``stop``.

    An exception in ``work`` ends the loop and is kept in ``failure``: a controller that cannot compute must
    not keep commanding.
    """

    def __init__(
        self,
        period_s: float,
        work: Callable[[], None],
        clock: Clock,
        simulated: bool,
        at_rest: Callable[[], bool] = lambda: True,
    ) -> None:
        """``at_rest``: returns whether nothing is moving, so that there is time for garbage collection."""
        self._period_ns = nanoseconds(period_s)
        self._work = work
        self._clock = clock if simulated else Clock(clock_type=ClockType.STEADY_TIME)
        self._simulated = simulated
        self._stopping = threading.Event()
        self._closing = threading.Lock()  # of the event that ``hurry`` sets
        self._hurried: int | None = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()  # select cannot take a file whose number is above 1023
        self._poll.register(self._hurried, select.POLLIN)
        # A simulated clock advances in steps: being late by one of them is normal.
        limit_s = 2.0 * period_s if simulated else LATE_LIMIT_S
        self._lateness = LatencyHealth("control period", limit_s, window=1000)
        self._scheduling = self._niceness = self._memory = "not started"
        self._at_rest = at_rest
        self._garbage = GarbageRounds()
        self._stall = ""  # why the period that has just begun is late
        self._stalls = StallWatch(STALL_PERIODS * period_s, lambda: self._garbage.total_s)
        self.missed = 0  # periods in which nothing was commanded
        self.early_ns = 0  # how long before its deadline the current period began; at most one period
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="control", daemon=False)

    def start(self) -> None:
        """Start; from now on the process has real-time priority, if permitted (see ``realtime``)."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._niceness, self._memory = realtime.ask_for_niceness(), realtime.lock_memory()
        self._garbage.start()
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """Stop after the call in progress; return whether the thread ended within ``timeout_s``."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
            self._garbage.stop()
        ended = not self._thread.is_alive()
        with self._closing:
            if ended and self._hurried is not None:
                os.close(self._hurried)
                self._hurried = None
        return ended

    def hurry(self) -> None:
        """Begin the next period now instead of at its deadline; call this from any thread.

        The deadlines stay where they are, so no period is lost or added. ``work`` must take the time of the
        period to be ``early_ns`` from now. Changes nothing if time is simulated.
        """
        with self._closing:
            if self._hurried is not None:
                os.eventfd_write(self._hurried, 1)

    def stall(self, waited_s: float) -> str:
        """Return why the current period is late, or an empty string; call this inside ``work``.

        ``waited_s`` is how long ``work`` has since waited for its lock.
        """
        return self._stalls.lap(waited_s) or self._stall

    def health(self) -> Health:
        """Return the lateness of the periods."""
        health = self._lateness.health()
        values = {
            **health.values,
            "missed": str(self.missed),
            "scheduling": self._scheduling,
            "niceness": self._niceness,
            "memory": self._memory,
            "collector_max_ms": f"{1e3 * self._garbage.longest_s:.2f}",
            "stalls": str(self._stalls.count),
            "last_stall": self._stalls.newest,
        }
        return Health(health.name, health.level, health.message, values)

    def _run(self) -> None:
        self._scheduling = realtime.ask_for_realtime(realtime.CONTROL_PRIORITY)
        deadline_ns = self._now_ns()
        try:
            while not self._stopping.is_set():
                deadline_ns += self._period_ns
                if not self._wait_until(deadline_ns):
                    deadline_ns = self._now_ns()
                    continue
                late_ns = self._now_ns() - deadline_ns
                self.early_ns = max(0, -late_ns)
                self._lateness.add(seconds(late_ns + self.early_ns))
                if late_ns > GIVE_UP_PERIODS * self._period_ns:
                    self.missed += late_ns // self._period_ns
                    deadline_ns = self._now_ns()
                self._note_stall()
                self._work()
                self._stall = ""
                self._garbage.run(self._at_rest())
        except Exception as error:  # noqa: BLE001 - handed on: the node ends with it
            self.failure = error
        finally:
            self._stalls.close()

    def _note_stall(self) -> None:
        self._stall = self._stalls.lap() or self._stall

    def _now_ns(self) -> int:
        return int(self._clock.now().nanoseconds) if self._simulated else time.monotonic_ns()

    def _wait_until(self, deadline_ns: int) -> bool:
        """Sleep until the deadline; return False if the loop ended or the clock jumped instead."""
        if not self._simulated:
            # After a hurried period the time until its deadline is no stall, and the next one must not begin.
            if (left_s := seconds(deadline_ns - self._period_ns - time.monotonic_ns())) > 0.0:
                time.sleep(left_s)
                self._note_stall()
            left_s = seconds(deadline_ns - time.monotonic_ns())
            if left_s > 0.0 and not self._poll.poll(int(1e3 * left_s)):  # whole milliseconds, then the rest
                time.sleep(max(0.0, seconds(deadline_ns - time.monotonic_ns())))
            assert self._hurried is not None  # it is closed once this thread has ended
            with suppress(BlockingIOError):  # nobody is in a hurry
                os.eventfd_read(self._hurried)
            return not self._stopping.is_set()
        # Wall-clock slices: a simulation may stand still, jump back, or end.
        slices = 0
        while (left_ns := deadline_ns - self._now_ns()) > 0:
            if slices % SLICES_PER_NOTE == 0:
                self._note_stall()  # a paused clock is not a stall of this loop
            slices += 1
            if self._stopping.wait(SLICE_S) or left_ns > 2 * self._period_ns:
                return False
        return True
