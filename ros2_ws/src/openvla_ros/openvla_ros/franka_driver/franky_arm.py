"""A Franka arm and its hand through franky-control 2.0.0, behind ``arm.FrankaArm`` and ``FrankaHand``.

What franky does that matters here (2.0.0 with libfranka 0.21.2):

- Its tracker keeps the last reference for ever, and ignores one that comes after its end without a word.
- An error that ends a motion is raised by ``join_motion``, or else by the next motion, of another cause.
- ``Robot.stop`` returns while the arm still moves; a ``TorqueStopMotion`` ends control at rest.
- What ``recover_from_errors`` returns may be of the state before the recovery.
- Connecting to an arm that another program controls waits without end.
- Lists of integers are refused where it takes lists of numbers.
- Every call that waits lets other threads run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from openvla_ros.dependencies import needed_for
from openvla_ros.driver_profile import FrankySettings
from openvla_ros.errors import DeviceError
from openvla_ros.franka_driver.arm import IDLE_MODE, ArmLostError, ArmState
from openvla_ros.franka_driver.host import bundled_libfranka, has_realtime_kernel, mismatch
from openvla_ros.values.arrays import Float

JOIN_S = 1.0
RECOVERED_S = 2.0  # how long the state may take to say that the arm has recovered


def import_franky() -> Any:
    """Return the module franky; raises ``MissingDependencyError`` with what to install."""
    with needed_for("arm_backend 'franky'"):
        import franky

        return franky


@contextmanager
def _translated(franky: Any, what: str) -> Iterator[None]:
    """Turn franky's exceptions into ours."""
    try:
        yield
    except franky.IncompatibleVersionException as error:
        raise ArmLostError(mismatch(str(error), bundled_libfranka(Path(franky.__file__).parent))) from error
    except franky.NetworkException as error:
        raise ArmLostError(f"{what}: {error}") from error
    except franky.Exception as error:
        raise DeviceError(f"{what}: {error}") from error


def arm_connector(settings: FrankySettings, address: str) -> Callable[[], FrankyArm]:
    """Return what connects to the arm at ``address``; it raises ``ArmLostError`` or ``DeviceError``."""

    def connect() -> FrankyArm:
        return FrankyArm(import_franky(), settings, address)

    return connect


def hand_connector(address: str) -> Callable[[], FrankyHand]:
    """Return what connects to the hand of the arm at ``address``; it raises ``ArmLostError``."""

    def connect() -> FrankyHand:
        return FrankyHand(import_franky(), address)

    return connect


class FrankyArm:
    """An arm that franky is connected to."""

    def __init__(self, franky: Any, settings: FrankySettings, address: str) -> None:
        self._franky, self._settings, self._where = franky, settings, f"the arm at {address}"
        realtime = franky.RealtimeConfig
        with _translated(franky, self._where):
            self._robot = franky.Robot(
                address, realtime_config=realtime.Enforce if has_realtime_kernel() else realtime.Ignore
            )
            self._set_behaviour()
        self._tracker: Any = None

    def state(self) -> ArmState:
        """Return the newest state."""
        with _translated(self._franky, self._where):
            state = self._robot.state
        return ArmState(
            np.array(state.q),
            np.array(state.dq),
            np.array(state.tau_J),
            np.array(state.O_F_ext_hat_K),
            str(state.robot_mode.name),
            str(state.current_errors).strip("[]") if state.current_errors else "",
            float(state.control_command_success_rate),
        )

    def start(self) -> None:
        """Begin joint impedance control where the arm stands."""
        damping = self._settings.damping
        with _translated(self._franky, self._where):
            self._clear()
            self._tracker = self._franky.JointImpedanceTracker(
                self._robot,
                stiffness=np.array(self._settings.stiffness),
                damping=None if damping is None else np.array(damping),
            )

    def refer(self, position: Float, velocity: Float) -> None:
        """Set what is tracked."""
        self._tracker.set_target(position, velocity)

    def end(self) -> None:
        """Let the impedance control damp the arm to rest and end."""
        with _translated(self._franky, self._where):
            if self._robot.is_in_control:
                self._robot.move(self._franky.TorqueStopMotion(), asynchronous=True)

    @property
    def in_control(self) -> bool:
        """Whether the impedance control, or its end, is running."""
        return bool(self._robot.is_in_control)

    def failure(self) -> str:
        """Return why control ended; empty if it was ended in order."""
        try:
            self._robot.join_motion(JOIN_S)
        except self._franky.NetworkException as error:
            raise ArmLostError(f"{self._where}: {error}") from error
        except self._franky.Exception as error:
            return str(error).removeprefix("libfranka: ")
        return ""

    def recover(self) -> None:
        """Recover from a reflex or an error."""
        with _translated(self._franky, self._where):
            self._clear()
            self._robot.recover_from_errors()  # its result is of the state before
            deadline_s = time.monotonic() + RECOVERED_S
            while self._robot.has_errors or self._robot.state.robot_mode.name != IDLE_MODE:
                if time.monotonic() > deadline_s:
                    raise DeviceError(f"{self._where} did not recover: see Franka Desk")
            self._set_behaviour()

    def _clear(self) -> None:
        """Take the error of the motion before, which the next motion would raise as its own."""
        try:
            self._robot.join_motion(JOIN_S)
        except self._franky.NetworkException:
            raise
        except self._franky.Exception:
            pass  # it was reported when it ended that motion

    def _set_behaviour(self) -> None:
        s = self._settings
        torque = (list(s.contact_torque_nm), list(s.collision_torque_nm))
        force = (list(s.contact_force), list(s.collision_force))
        self._robot.set_collision_behavior(*torque, *force)


class FrankyHand:
    """A hand that franky is connected to."""

    def __init__(self, franky: Any, address: str) -> None:
        self._franky, self._where = franky, f"the hand at {address}"
        with _translated(franky, self._where):
            self._gripper = franky.Gripper(address)

    def width_m(self) -> float:
        """Return the distance between the fingers, metres."""
        with _translated(self._franky, self._where):
            return float(self._gripper.width)

    def move(self, width_m: float, speed_m_s: float) -> bool:
        """Position the fingers."""
        try:
            with _translated(self._franky, self._where):
                return bool(self._gripper.move(width_m, speed_m_s))
        except ArmLostError:
            raise
        except DeviceError:
            return False  # the hand is there, and could not

    def grasp(self, width_m: float, speed_m_s: float, force_n: float, tolerance_m: float) -> bool:
        """Close with a force."""
        try:
            with _translated(self._franky, self._where):
                done = self._gripper.grasp(width_m, speed_m_s, force_n, tolerance_m, tolerance_m)
                return bool(done)
        except ArmLostError:
            raise
        except DeviceError:
            return False
