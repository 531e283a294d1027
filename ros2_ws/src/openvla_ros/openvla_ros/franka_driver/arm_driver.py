"""What the driver does with one arm in each period: connects, follows setpoints, brakes, ends, recovers.

    lost ──connected──▶ idle ──setpoints from rest near the arm─▶ tracking ──no setpoints──▶ ending ──▶ idle
     ▲                   ▲                                          │
     └──connection gone──┴───────────── recovery ◀── aborted ◀──────┘ reflex, error, user stop

- Control begins only where the arm stands, with setpoints near it that do not move yet: whatever was lost,
  no motion is joined halfway.
- Without the next setpoint in time the reference brakes within the limits; once it has been at rest for a
  while, control ends and the arm's own controller holds it.
- After a loss, setpoints that rest, or come to the arm, are taken up only where it already is: nobody has
  asked for the way to them. Once they leave it, or after a recovery, it goes there slowly.
- After a reflex or an error the arm stays where its own controller stopped it, until a person asks for
  recovery.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from enum import Enum
from typing import Literal

import numpy as np

from openvla_ros.errors import DeviceError, InvalidValueError, MissingDependencyError
from openvla_ros.franka_driver.arm import IDLE_MODE, ArmLostError, ArmState, FrankaArm
from openvla_ros.franka_driver.reference import JOINING_RAD, Reference
from openvla_ros.franka_driver.setpoint_buffer import Setpoint, SetpointBuffer
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimits
from openvla_ros.robot.motion.setpoint_player import Stance
from openvla_ros.values.health import Health, Level

# Between two attempts to connect.
RETRY_S = 1.0
# Control ends this long after the reference came to rest without setpoints.
IDLE_S = 0.5
# Setpoints that leave an arm by more than this go somewhere.
LEFT_RAD = 1e-3

Report = Callable[[Literal["info", "warn", "error"], str], None]


class Phase(Enum):
    """What the driver is doing."""

    LOST = "lost"  # no connection
    IDLE = "idle"  # the arm's own controller holds it
    TRACKING = "tracking"
    ENDING = "ending"  # the impedance control damps the arm to rest
    ABORTED = "aborted"  # by the arm: only a person's request goes on from here


class ArmDriver:
    """Drives one arm; ``step`` once a period on one thread, everything else from any thread."""

    def __init__(
        self,
        connect: Callable[[], FrankaArm],
        limits: MotionLimits,
        period_s: float,
        setpoint_period_s: float,
        leash_rad: float,
        near_rad: float,
        report: Report,
    ) -> None:
        """Create a driver that is not connected yet.

        Args:
            connect: Connects to the arm. Blocks; raises ``DeviceError`` if that fails.
            limits: The joint limits of the profile.
            period_s: How often ``step`` is called.
            setpoint_period_s: How often setpoints come.
            leash_rad: How far a reference may be from the measured joints.
            near_rad: How far setpoints at rest may be from an arm whose control begins.
            report: Called with a severity and a sentence for whatever a person should know.
        """
        self._connect, self._report, self._near_rad = connect, report, near_rad
        self._buffer = SetpointBuffer(len(limits.lower), setpoint_period_s)
        self._reference = Reference(limits, period_s, leash_rad)
        self._arm: FrankaArm | None = None
        self._lock = threading.Lock()  # over the buffer
        self._retry_s = 0.0
        self._rests_since_s: float | None = None
        self._connected_anew = True
        self._nearest_rad = np.inf  # how near the setpoints have been since the arm was connected
        self._stance = Stance()
        self._recovery_asked = False
        self._problem = "not connected yet"
        self._said = ""
        self._success_rate = 1.0
        self._counts = dict.fromkeys(("setpoints", "missed", "refused", "braked", "aborted", "lost"), 0)
        self._braking = False
        self.phase = Phase.LOST

    # From any thread

    def take(self, setpoint: Setpoint, now_s: float) -> None:
        """Follow ``setpoint`` from now on; raises ``InvalidValueError`` as ``SetpointBuffer.add``."""
        with self._lock:
            try:
                self._buffer.add(setpoint, now_s)
            except InvalidValueError:
                self._counts["refused"] += 1
                raise
            self._counts["setpoints"] += 1

    def ask_for_recovery(self) -> str | None:
        """Have the arm recover in the next period; return why that is impossible, or None."""
        if self.phase is not Phase.ABORTED:
            return f"the arm needs no recovery: {self._problem or self.phase.value}"
        self._recovery_asked = True
        return None

    @property
    def reference(self) -> JointMotion | None:
        """What is referred to, while tracking."""
        return self._reference.motion if self.phase is Phase.TRACKING else None

    def health(self) -> Health:
        """Return the phase, what keeps the arm from moving, and counters."""
        levels: dict[Phase, Level] = {Phase.LOST: "error", Phase.ABORTED: "error"}
        level = levels.get(self.phase, "warn" if self._problem else "ok")
        values = {name: str(count) for name, count in self._counts.items()}
        values |= {
            "held_back": str(self._reference.held_back),
            "commands_in_time": f"{self._success_rate:.3f}",
        }
        return Health("arm", level, f"{self.phase.value}: {self._problem}".removesuffix(": "), values)

    # On the driver's thread

    def step(self, now_s: float) -> ArmState | None:
        """Do what is due at ``now_s``; return the arm's state, or None without a connection."""
        try:
            if self._arm is None:
                self._try_to_connect(now_s)
                return None
            state = self._arm.state()
            self._success_rate = state.success_rate
            self._stance.observe(state.position, now_s)
            self._act(self._arm, state, now_s)
            return state
        except ArmLostError as error:
            self._lose(f"lost the arm: {error}", now_s)
            return None

    def shut_down(self, now_s: float) -> bool:
        """Brake and end control; return whether the arm is controlled no more. Call it like ``step``."""
        if self._arm is None or self.phase in (Phase.LOST, Phase.IDLE, Phase.ABORTED):
            return True
        with self._lock:
            self._buffer = SetpointBuffer(len(self._reference.motion.position), self._buffer.delay_s)
        self._rests_since_s = -np.inf if self._reference.at_rest else self._rests_since_s
        self.step(now_s)
        return self._arm is None or not self._arm.in_control

    def _try_to_connect(self, now_s: float) -> None:
        if now_s < self._retry_s:
            return
        try:
            self._arm = self._connect()
        except (DeviceError, MissingDependencyError) as error:
            self._retry_s = now_s + RETRY_S
            self._tell(str(error), "error")
            return
        self.phase = Phase.IDLE
        self._connected_anew, self._nearest_rad = True, np.inf
        self._tell("", "info")
        self._report("info", "connected to the arm")

    def _act(self, arm: FrankaArm, state: ArmState, now_s: float) -> None:
        match self.phase:
            case Phase.IDLE:
                self._begin(arm, state, now_s)
            case Phase.TRACKING:
                self._track(arm, state, now_s)
            case Phase.ENDING:
                if not arm.in_control:
                    self._ended(arm)
            case Phase.ABORTED:
                self._recover(arm)
            case Phase.LOST:
                raise AssertionError("connected, yet lost")

    def _begin(self, arm: FrankaArm, state: ArmState, now_s: float) -> None:
        if state.errors or state.mode in ("Reflex", "UserStopped"):
            self._abort(f"the arm reports {state.errors or state.mode}")
            return
        if state.mode != IDLE_MODE:
            self._tell(f"the arm is in mode {state.mode}", "warn")
            return
        with self._lock:
            place = self._buffer.starting(now_s)
        if place is None:
            self._problem = ""  # nobody asks for anything, or the setpoints move already
            return
        away_rad = float(np.abs(place - state.position).max())
        if away_rad > self._near_rad:
            where = f"the setpoints are {away_rad:.3f} rad from the arm"
            self._tell(f"{where}; it takes them up from {self._near_rad:g} rad", "error")
            return
        if away_rad > JOINING_RAD and not self._is_asked_for(away_rad):
            where = f"the setpoints rest {away_rad:.3f} rad from the arm"
            self._tell(f"{where}, which was lost meanwhile; it moves when a pose is asked for", "warn")
            return
        if self._stance.place(now_s) is None:
            self._tell("the arm moves by itself or is moved", "warn")
            return
        self._reference.start(state.position)
        self._rests_since_s, self._braking = None, False
        arm.start()
        self.phase, self._connected_anew = Phase.TRACKING, False
        self._tell("", "info")

    def _is_asked_for(self, away_rad: float) -> bool:
        """Return whether the setpoints have begun to leave the arm since it was connected.

        Where nobody has asked for anything they rest, or come to the arm.
        """
        self._nearest_rad = min(self._nearest_rad, away_rad)
        return not self._connected_anew or away_rad > self._nearest_rad + LEFT_RAD

    def _track(self, arm: FrankaArm, state: ArmState, now_s: float) -> None:
        if not arm.in_control:
            self._abort(arm.failure() or f"the arm left control, in mode {state.mode}")
            return
        with self._lock:
            target = self._buffer.at(now_s)
        if target is not None and self._is_far(target):
            target = None
        if target is not None:
            self._rests_since_s, self._braking, self._problem = None, False, ""
            motion = self._reference.follow(target, state.position)
        else:
            self._counts["missed"] += 1
            if not self._braking:
                self._braking = True
                self._counts["braked"] += not self._reference.at_rest
            motion = self._reference.brake(state.position)
        arm.refer(motion.position, motion.velocity)
        if target is not None or not self._reference.at_rest:
            return
        self._rests_since_s = now_s if self._rests_since_s is None else self._rests_since_s
        if now_s - self._rests_since_s >= IDLE_S:
            arm.end()
            self.phase = Phase.ENDING

    def _is_far(self, target: JointMotion) -> bool:
        """Return whether the setpoints went on without the arm; it brakes then, and waits for them."""
        away_rad = float(np.abs(target.position - self._reference.motion.position).max())
        if away_rad <= self._near_rad:
            return False
        self._tell(f"the setpoints are {away_rad:.2f} rad from the arm's reference", "error")
        return True

    def _ended(self, arm: FrankaArm) -> None:
        failure = arm.failure()
        if failure:
            self._abort(failure)
        else:
            self.phase = Phase.IDLE

    def _abort(self, why: str) -> None:
        self._recovery_asked = False
        self._counts["aborted"] += 1
        self.phase = Phase.ABORTED
        self._tell(f"{why}; when it is safe: openvla recover-arm", "error")

    def _recover(self, arm: FrankaArm) -> None:
        if not self._recovery_asked:
            return
        self._recovery_asked = False
        try:
            arm.recover()
        except ArmLostError:
            raise
        except DeviceError as error:
            self._tell(f"recovery failed: {error}", "error")
            return
        self.phase, self._connected_anew = Phase.IDLE, False
        self._tell("", "info")
        self._report("info", "recovered; the arm goes slowly to setpoints near it")

    def _lose(self, why: str, now_s: float) -> None:
        self._arm, self._retry_s = None, now_s
        self._recovery_asked = False
        self._counts["lost"] += 1
        self.phase = Phase.LOST
        self._tell(why, "error")

    def _tell(self, problem: str, severity: Literal["info", "warn", "error"]) -> None:
        """Note what keeps the arm from moving; report it once."""
        self._problem = problem
        said = re.sub(r"\d[\d.]*", "", problem)  # the same problem with another number is no news
        if problem and said != self._said:
            self._report(severity, problem)
        self._said = said
