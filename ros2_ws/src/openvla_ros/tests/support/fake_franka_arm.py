"""A fake Franka arm and hand behind the interface that franky is driven through (``franka_driver.arm``).

Its joints follow the reference at once. It can be lost, stopped by a reflex, or moved by hand; what it was
told is kept.
"""

import threading

import numpy as np

from openvla_ros.errors import DeviceError
from openvla_ros.franka_driver.arm import ArmLostError, ArmState

REFLEX = "cartesian_reflex"


class FakeFrankaArm:
    """Used in place of ``FrankyArm``."""

    def __init__(self, position) -> None:
        self.position = np.array(position, dtype=float)
        self.velocity = np.zeros(7)
        self.mode, self.errors, self.why = "Idle", "", ""
        self.lost = self.controlled = self.follows = False
        self.refuses_recovery = False
        self.told: list[tuple[np.ndarray, np.ndarray]] = []
        self.calls: list[str] = []
        self.follows = True

    def state(self) -> ArmState:
        if self.lost:
            raise ArmLostError("connection gone")
        still = np.zeros(7)
        return ArmState(
            self.position.copy(), self.velocity.copy(), still, np.zeros(6), self.mode, self.errors, 1.0
        )

    def start(self) -> None:
        self.calls.append("start")
        self.controlled, self.mode = True, "Move"

    def refer(self, position, velocity) -> None:
        assert self.controlled, "a reference without control is ignored by franky, without a word"
        self.told.append((np.array(position), np.array(velocity)))
        if self.follows:
            self.position = np.array(position)

    def end(self) -> None:
        self.calls.append("end")
        self.controlled, self.mode = False, "Idle"

    @property
    def in_control(self) -> bool:
        return self.controlled

    def failure(self) -> str:
        why, self.why = self.why, ""
        return why

    def recover(self) -> None:
        self.calls.append("recover")
        if self.refuses_recovery:
            raise DeviceError("it did not recover")
        self.mode, self.errors = "Idle", ""

    def reflex(self) -> None:
        self.controlled, self.mode, self.errors, self.why = False, "Reflex", REFLEX, "aborted by reflex"


class FakeFrankaHand:
    """Used in place of ``FrankyHand``; a command blocks until ``go_on`` is set."""

    def __init__(self) -> None:
        self.width, self.lost = 0.04, False
        self.told: list[tuple] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def width_m(self) -> float:
        if self.lost:
            raise ArmLostError("hand gone")
        return self.width

    def move(self, width_m: float, speed_m_s: float) -> bool:
        return self._do(width_m, "move", width_m, speed_m_s)

    def grasp(self, width_m: float, speed_m_s: float, force_n: float, tolerance_m: float) -> bool:
        return self._do(width_m, "grasp", width_m, speed_m_s, force_n, tolerance_m)

    def _do(self, width_m: float, *told) -> bool:
        if self.lost:
            raise ArmLostError("hand gone")
        self.told.append(told)
        self.go_on.wait(10.0)
        self.width = width_m
        return True
