"""The motors of a simulated WidowX under Interbotix's xs_sdk: modes, profiles and registers.

As Dynamixel's X series and interbotix_xs_driver 0.3.3 (``xs_driver.cpp``) have them: a motor takes a command
in the meaning of its mode, goes limp while its mode is changed, and has no timeout. Positions and PWM are
simulated; velocity and current modes leave a motor where it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import RobotProfile
from openvla_ros.values.arrays import Float

# Interbotix's default for an arm is 2000 ms a command; here it is what streaming needs.
MODES = (
    "position",
    "ext_position",
    "linear_position",
    "current_based_position",
    "velocity",
    "pwm",
    "current",
)
POSITION_MODES = MODES[:4]
PROFILES = ("time", "velocity")
GRIPPER = "gripper"  # the motor that moves the fingers
ALL, ARM = "all", "arm"
RAD_S_PER_UNIT = 0.229 * 0.104719755  # of the register Profile_Velocity
# XM430-W350 at 12 V: no-load speed at the full PWM of 885; the gripper's horn turns it into the finger's way.
FULL_PWM, NO_LOAD_RAD_S = 885.0, 4.82
HORN_RADIUS_M, ARM_LENGTH_M = 0.014, 0.024  # of the gripper, interbotix_xsarm_control, ``wx250s.yaml``
SQUEEZE_M = 0.006  # how far a pressing finger's command goes into what it holds


@dataclass(frozen=True)
class Motor:
    """How one motor is set up, and what it was told last."""

    mode: str = "position"
    profile_type: str = "velocity"
    profile_velocity: int = 0  # ms in a time profile, else units of ``RAD_S_PER_UNIT``; 0: at once
    profile_acceleration: int = 0
    torque: bool = True
    registers: Mapping[str, int] = field(default_factory=dict)  # others that were written


class DynamixelMotors:
    """The J motors of an arm and the one of its gripper; times are seconds of one clock."""

    def __init__(self, profile: RobotProfile, q: Float) -> None:
        """Start at joints (J,) rad, the gripper open and in PWM mode, as BridgeData V2's driver does."""
        self._joints = list(profile.arm.joints)
        self._lower, self._upper = np.array(profile.limits.joint_lower), np.array(profile.limits.joint_upper)
        self._gripper = profile.gripper
        self.groups: dict[str, list[str]] = {ARM: self._joints, ALL: [*self._joints, GRIPPER]}
        self.group_modes: dict[str, Motor] = {ARM: Motor(), ALL: Motor()}
        self.motors: dict[str, Motor] = {name: Motor() for name in self._joints} | {
            GRIPPER: Motor(mode="pwm")
        }
        self._at = q.copy()  # what the motors are commanded now
        self._goal, self._begun, self._began_s = q.copy(), q.copy(), np.zeros(len(q))
        self._finger_m, self._finger_goal_m, self._pwm = self._gripper.open_m, self._gripper.open_m, 0.0
        self._last_s: float | None = None

    # -- what comes in

    def names(self, kind: str, name: str) -> list[str]:
        """Return the motors of ``group`` or ``single`` ``name``; raises ``InvalidValueError`` without any."""
        if kind == "group" and name in self.groups:
            return self.groups[name]
        if kind == "single" and name in self.motors:
            return [name]
        known = {"group": list(self.groups), "single": list(self.motors)}.get(kind)
        if known is None:
            raise InvalidValueError(f"cmd_type was {kind!r}; choices are 'group' and 'single'")
        raise InvalidValueError(f"there is no {kind} {name!r}; there are {', '.join(known)}")

    def command_group(self, name: str, values: Sequence[float], now_s: float) -> None:
        """Take a command of every motor of a group, in the meaning of the group's mode.

        Raises ``InvalidValueError`` if it is not taken. An unknown group ends the real driver.
        """
        names = self.names("group", name)
        if len(values) != len(names):
            raise InvalidValueError(f"{len(values)} commands for the {len(names)} joints of group {name!r}")
        refused = []
        for motor, value in zip(names, values, strict=True):  # each motor takes or refuses its own
            try:
                self._command(motor, self.group_modes[name].mode, value, now_s)
            except InvalidValueError as error:
                refused.append(str(error))
        if refused:
            raise InvalidValueError("; ".join(refused))

    def command_single(self, name: str, value: float, now_s: float) -> None:
        """Take the command of one motor, in the meaning of its mode; raises as ``command_group``."""
        self.names("single", name)
        self._command(name, self.motors[name].mode, value, now_s)

    def set_modes(
        self, kind: str, name: str, mode: str, profile_type: str, velocity: int, acceleration: int
    ) -> None:
        """Set the operating mode; the motors are switched on by it. Raises ``InvalidValueError``."""
        if mode not in MODES:
            raise InvalidValueError(f"mode is {mode!r}; choose from {', '.join(MODES)}")
        if profile_type not in PROFILES:
            raise InvalidValueError(f"profile_type is {profile_type!r}; choose from {', '.join(PROFILES)}")
        settings = Motor(mode, profile_type, velocity, acceleration)
        for motor in self.names(kind, name):
            self.motors[motor] = replace(settings, registers=self.motors[motor].registers)
            self._stay(motor)
        if kind == "group":
            self.group_modes[name] = settings

    def set_torque(self, kind: str, name: str, on: bool) -> None:
        """Switch motors on or off; one that is off is moved by whoever pushes it. Raises as ``names``."""
        for motor in self.names(kind, name):
            self.motors[motor] = replace(self.motors[motor], torque=on)
            self._stay(motor)

    def write_register(self, kind: str, name: str, register: str, value: int) -> None:
        """Write a register of the motors; raises as ``names``."""
        if register == "Torque_Enable":
            self.set_torque(kind, name, bool(value))
            return
        for motor in self.names(kind, name):
            before = self.motors[motor]
            match register:
                case "Profile_Velocity":
                    after = replace(before, profile_velocity=value)
                case "Profile_Acceleration":
                    after = replace(before, profile_acceleration=value)
                case _:
                    after = replace(before, registers={**before.registers, register: value})
            self.motors[motor] = after

    def read_register(self, kind: str, name: str, register: str) -> list[int]:
        """Return a register of each motor; raises ``InvalidValueError`` for one that is not simulated."""
        values = []
        for motor in self.names(kind, name):
            set_up = self.motors[motor]
            known: dict[str, int] = {
                "Torque_Enable": int(set_up.torque),
                "Profile_Velocity": set_up.profile_velocity,
                "Profile_Acceleration": set_up.profile_acceleration,
                "Hardware_Error_Status": 0,
                **set_up.registers,
            }
            if register not in known:
                raise InvalidValueError(
                    f"register {register!r} is not simulated; there are {', '.join(known)}"
                )
            values.append(known[register])
        return values

    # -- what comes out, once a period

    def sample(self, now_s: float, measured: Float) -> Float:
        """Return where the motors pull (J,) rad at ``now_s``; one that is limp stays at ``measured``."""
        period_s = 0.0 if self._last_s is None else now_s - self._last_s
        self._last_s = now_s
        for i, name in enumerate(self._joints):
            motor = self.motors[name]
            if not motor.torque:
                self._at[i] = measured[i]
            elif motor.mode in POSITION_MODES:
                self._at[i] = self._toward_goal(i, motor, now_s, period_s)
        self._move_finger(period_s)
        return self._at.copy()

    def finger(self, measured_m: float) -> float:
        """Return where the gripper's motor pulls the finger, metres; it presses on what stops it."""
        near = np.clip(self._finger_m, measured_m - SQUEEZE_M, measured_m + SQUEEZE_M)
        low, high = sorted((self._gripper.closed_m, self._gripper.open_m))
        self._finger_m = float(np.clip(near, low, high))
        return self._finger_m

    # -- inside

    def _command(self, name: str, mode: str, value: float, now_s: float) -> None:
        if not math.isfinite(value):
            raise InvalidValueError(f"the command of {name!r} is {value}")
        if name == GRIPPER:
            self._command_gripper(mode, value)
            return
        if mode not in POSITION_MODES:
            raise InvalidValueError(f"{name!r} is in the mode {mode!r}, which is not simulated for the arm")
        i = self._joints.index(name)
        if not self._lower[i] <= value <= self._upper[i]:  # the motor's own limits: out of its data range
            raise InvalidValueError(f"{name!r} is told {value:.3f} rad, beyond its limits; it does not move")
        self._goal[i], self._begun[i], self._began_s[i] = value, self._at[i], now_s

    def _command_gripper(self, mode: str, value: float) -> None:
        if mode == "pwm":
            self._pwm = max(-FULL_PWM, min(FULL_PWM, value))
        elif mode == "linear_position":
            self._finger_goal_m = value / 2.0  # the distance between the fingers
        elif mode in POSITION_MODES:
            self._finger_goal_m = finger_of(value)
        else:
            raise InvalidValueError(f"{GRIPPER!r} is in the mode {mode!r}, which is not simulated")

    def _stay(self, name: str) -> None:
        if name == GRIPPER:
            self._pwm, self._finger_goal_m = 0.0, self._finger_m
        else:
            i = self._joints.index(name)
            self._goal[i] = self._begun[i] = self._at[i]

    def _toward_goal(self, i: int, motor: Motor, now_s: float, period_s: float) -> float:
        goal, at = float(self._goal[i]), float(self._at[i])
        if motor.profile_velocity == 0:
            return goal
        if motor.profile_type == "time":
            share = min(1.0, (now_s - self._began_s[i]) / (1e-3 * motor.profile_velocity))
            return float(self._begun[i] + share * (goal - self._begun[i]))
        step = RAD_S_PER_UNIT * motor.profile_velocity * period_s
        return at + max(-step, min(step, goal - at))

    def _move_finger(self, period_s: float) -> None:
        motor = self.motors[GRIPPER]
        if not motor.torque:
            return
        way_m = NO_LOAD_RAD_S * HORN_RADIUS_M * period_s  # at full PWM
        if motor.mode == "pwm":
            self._finger_m += self._pwm / FULL_PWM * way_m
        else:
            self._finger_m += max(-way_m, min(way_m, self._finger_goal_m - self._finger_m))


def finger_of(angle_rad: float) -> float:
    """Return a finger's way from the middle, metres, at the gripper motor's angle (``xs_driver.cpp``)."""
    across = HORN_RADIUS_M * math.sin(angle_rad)
    along = math.sqrt(HORN_RADIUS_M**2 - across**2)
    return across + math.sqrt(ARM_LENGTH_M**2 - along**2)
