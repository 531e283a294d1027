"""Drives the hand on threads of its own: a command blocks until the fingers are there.

``move`` only positions the fingers; holding something with a force needs ``grasp``. So an opening above the
profile's threshold becomes a ``move`` to that width, one below it a ``grasp``. A command is never cut short:
the newest opening that was asked for meanwhile follows it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from openvla_ros.errors import DeviceError, MissingDependencyError
from openvla_ros.franka_driver.arm import FrankaHand
from openvla_ros.franka_driver.arm_driver import RETRY_S, Report
from openvla_ros.profile import RobotProfile
from openvla_ros.values.health import Health

CHANGE = 0.02  # minimum change of opening for a new command
READ_S = 0.04  # between two readings of the width


class HandDriver:
    """One hand."""

    def __init__(self, connect: Callable[[], FrankaHand], profile: RobotProfile, report: Report) -> None:
        """``connect`` blocks, and raises ``DeviceError`` if there is no hand."""
        self._connect, self._report = connect, report
        self._gripper, self._backend = profile.gripper, profile.gripper_backend
        self._hand: FrankaHand | None = None
        self._wanted: float | None = None
        self._sent: float | None = None
        self._width_m: float | None = None
        self._problem = "not connected yet"
        self._condition = threading.Condition()
        self._ended = False
        self._threads = [
            threading.Thread(target=run, name=name, daemon=True)
            for name, run in (("hand", self._command), ("hand state", self._watch))
        ]

    def start(self) -> None:
        """Connect, then read the width and carry out commands, until ``stop``."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = 3.0) -> bool:
        """Finish the command in progress; return whether that took less than ``timeout_s``."""
        with self._condition:
            self._ended = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join(timeout_s)
        return not any(thread.is_alive() for thread in self._threads)

    def want(self, opening: float) -> None:
        """Have the fingers go to ``opening``, 0 closed .. 1 open. Returns at once."""
        with self._condition:
            self._wanted = opening
            self._condition.notify_all()

    @property
    def position_m(self) -> float | None:
        """Position of one finger's joint, metres: half the width; None while it is not known."""
        width_m = self._width_m
        return None if width_m is None else width_m / 2.0

    def health(self) -> Health:
        """Return whether the hand is there and did what it was told."""
        width = "" if self._width_m is None else f"{self._width_m:.4f}"
        return Health(
            "hand", "error" if self._problem else "ok", self._problem or "connected", {"width_m": width}
        )

    def _watch(self) -> None:
        """Read the width, and connect again after a loss."""
        while not self._wait(READ_S):
            hand = self._hand
            try:
                if hand is None:
                    self._hand = hand = self._connect()
                    self._tell("")
                    with self._condition:
                        self._sent = None  # what was wanted last is wanted still
                        self._condition.notify_all()
                self._width_m = hand.width_m()
            except (DeviceError, MissingDependencyError) as error:
                self._lose(f"no hand: {error}")
                if self._wait(RETRY_S):
                    return

    def _command(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._ended or self._due())
                if self._ended:
                    return
                hand, wanted = self._hand, self._wanted
                self._sent = wanted
            assert hand is not None
            assert wanted is not None
            try:
                self._carry_out(hand, wanted)
            except DeviceError as error:
                self._lose(f"the hand failed: {error}")

    def _due(self) -> bool:
        if self._hand is None or self._wanted is None:
            return False
        return self._sent is None or abs(self._wanted - self._sent) >= CHANGE

    def _carry_out(self, hand: FrankaHand, opening: float) -> None:
        width_m, backend = 2.0 * self._gripper.position_m(opening), self._backend
        if opening > self._gripper.threshold:
            done = hand.move(width_m, backend.speed_m_s)
        else:
            # Whatever is between the fingers, of any width, counts as grasped.
            tolerance_m = 2.0 * abs(self._gripper.open_m - self._gripper.closed_m)
            done = hand.grasp(width_m, backend.speed_m_s, backend.force_n, tolerance_m)
        self._tell("" if done else f"the hand did not reach opening {opening:.2f}")

    def _lose(self, problem: str) -> None:
        self._hand = self._width_m = None
        self._tell(problem)

    def _tell(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            self._report("error" if problem else "info", problem or "hand: connected")

    def _wait(self, seconds: float) -> bool:
        """Return whether the driver ends; waits for that at most so long."""
        with self._condition:
            return self._condition.wait_for(lambda: self._ended, seconds)
