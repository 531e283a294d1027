"""Asks Interbotix's xs_sdk how the motors behind a command topic are set up.

By default (``modes.yaml`` of interbotix_xsarm_control) it plays each command to the arm over two seconds; the
stream of this package then moves the arm late or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from rclpy.client import Client
from rclpy.node import Node
from rclpy.task import Future

from openvla_ros.drivers.readiness.optional_messages import interface
from openvla_ros.drivers.readiness.subscribers import Restarts
from openvla_ros.drivers.readiness.unusable import Unusable
from openvla_ros.profile import RobotProfile

# How often motors that are not set up as they must be are looked at again, and how long an answer may take.
ASK_PERIOD_S, ANSWER_S = 2.0, 5.0
INFO, VALUES = "get_robot_info", "get_motor_registers"
# Dynamixel's (X series), and the units of the last two: rad/s and rad/s²; in a time profile milliseconds.
REGISTERS = ("Torque_Enable", "Profile_Velocity", "Profile_Acceleration")
VELOCITY_UNIT, ACCELERATION_UNIT = 0.229 * 0.104719755, 214.577 * 0.104719755 / 60.0


@dataclass(frozen=True)
class Motors:
    """How xs_sdk has set up the motors of a group, or one motor."""

    joints: Sequence[str]
    mode: str
    profile_type: str
    registers: Mapping[str, Sequence[int]]  # those of ``REGISTERS``, a value a motor; none: not told

    def slowest(self, register: str) -> int:
        """Return the smallest value that limits a motor; 0 where none does."""
        return min((value for value in self.registers[register] if value > 0), default=0)


def too_slow(motors: Motors, profile: RobotProfile) -> str | None:
    """Return why motors in position mode cannot follow the profile's arm, or ``None``."""
    limits = profile.limits
    if motors.profile_type == "time":
        lasts_s = max(motors.registers["Profile_Velocity"], default=0) * 1e-3
        behind_rad = lasts_s * max(limits.joint_velocity)
        if behind_rad <= limits.tracking_error_rad:
            return None
        return (
            f"each command is played over {lasts_s:g} s (profile_type 'time'), so that the arm would be "
            f"up to {behind_rad:.2f} rad behind; limits.tracking_error_rad is {limits.tracking_error_rad:g}"
        )
    for register, unit, name, wanted in (
        ("Profile_Velocity", VELOCITY_UNIT, "joint_velocity", max(limits.joint_velocity)),
        ("Profile_Acceleration", ACCELERATION_UNIT, "joint_acceleration", max(limits.joint_acceleration)),
    ):
        slowest = motors.slowest(register)
        if slowest and slowest * unit < wanted:
            return (
                f"{register} {slowest} lets the motors reach {slowest * unit:.2f}, and limits.{name} "
                f"is {wanted:g}"
            )
    return None


class MotorState:
    """Asks xs_sdk how the motors behind a command topic are set up, and judges it.

    Asked when the driver appears, and again while something is wrong: reading registers keeps the motors' bus
    busy. A command to a group that it does not have ends the driver (interbotix_xs_driver 0.3.3,
    ``get_group_info``), and one in another mode means something else, so nothing is sent before the answer.
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        command: tuple[str, str],
        mode: str,
        joints: Sequence[str] = (),
        judge: Callable[[Motors], str | None] = lambda motors: None,
    ) -> None:
        """``command``: ``group`` or ``single``, and its name; it must have ``joints``, if given, in order."""
        self._node, (self._kind, self._name), self._mode = node, command, mode
        self._joints, self._judge = list(joints), judge
        self._topic = node.resolve_topic_name(topic)
        self._space = self._topic.rsplit("/commands/", 1)[0]
        what = "the motors' operating modes"
        self._info = interface("interbotix_xs_msgs/srv/RobotInfo", what)
        self._values = interface("interbotix_xs_msgs/srv/RegisterValues", what)
        self._drivers = Restarts()
        self._clients: dict[str, Client] = {}
        self._futures: dict[str, Future] = {}
        self._asked_s = 0.0
        self.is_known = False
        self.problem: Unusable | None = self._unanswered("has not answered yet")

    def __str__(self) -> str:
        return f"{self._space}: {self._name!r} is in the mode {self._mode!r} and follows each command at once"

    def progress(self) -> Unusable | None:
        """Continue without blocking; return why the motors must not be moved, or ``None``."""
        if self._drivers.noticed(self._node.get_subscriptions_info_by_topic(self._topic)):
            self._forget("was restarted and has not answered yet")
        now_s = time.monotonic()
        if self._futures:
            if all(future.done() for future in self._futures.values()):
                self._read()
            elif now_s - self._asked_s > ANSWER_S:
                self._forget(f"has not answered for {ANSWER_S:g} s")
        elif not self.is_known or (self.problem is not None and now_s - self._asked_s >= ASK_PERIOD_S):
            self._ask(now_s)
        return self.problem

    def close(self) -> None:
        """Ask no more."""
        self._forget("is not asked any more")
        for client in self._clients.values():
            self._node.destroy_client(client)
        self._clients = {}

    def _ask(self, now_s: float) -> None:
        for service, kind in ((INFO, self._info), (VALUES, self._values)):
            if service not in self._clients:
                self._clients[service] = self._node.create_client(kind, f"{self._space}/{service}")
        if not all(client.service_is_ready() for client in self._clients.values()):
            self.problem = self._unanswered("is not there")
            return
        request = {"cmd_type": self._kind, "name": self._name}
        self._futures = {
            register: self._clients[VALUES].call_async(self._values.Request(**request, reg=register))
            for register in REGISTERS
        }
        self._futures[INFO] = self._clients[INFO].call_async(self._info.Request(**request))
        self._asked_s = now_s

    def _read(self) -> None:
        answers = {name: future.result() for name, future in self._futures.items()}
        self._futures, self.is_known = {}, True
        info = answers.pop(INFO)
        registers = {register: list(answer.values) for register, answer in answers.items()}
        self.problem = self._judged(Motors(list(info.joint_names), info.mode, info.profile_type, registers))

    def _judged(self, motors: Motors) -> Unusable | None:
        who = f"{self._space}: the {self._kind} {self._name!r}"
        if not motors.joints:  # what the driver answers where it refuses a request
            return Unusable(f"{who} does not exist", "correct the profile's backend, or the motor configs")
        if self._joints and list(motors.joints) != self._joints:
            what = f"{who} is {list(motors.joints)}, the profile's joints are {self._joints}"
            return Unusable(what, "correct arm.joints or arm_backend.group")
        if not all(motors.registers["Torque_Enable"]):
            return Unusable(f"{who} has limp motors", f"hold the arm and call {self._space}/torque_enable")
        wrong = self._judge(motors)
        if motors.mode != self._mode:
            wrong = f"it is in the mode {motors.mode!r}, not in {self._mode!r}"
        if wrong is None:
            return None
        remedy = (
            f"in the driver's modes.yaml, or now, with the arm held because it goes limp meanwhile: ros2 "
            f"service call {self._space}/set_operating_modes interbotix_xs_msgs/srv/OperatingModes "
            f'"{{cmd_type: {self._kind}, name: {self._name}, mode: {self._mode}, profile_type: velocity, '
            'profile_velocity: 0, profile_acceleration: 0}"'
        )
        return Unusable(f"{who}: {wrong}", remedy)

    def _unanswered(self, what: str) -> Unusable:
        return Unusable(
            f"{self._space}/{INFO} {what}", "xs_sdk tells there how its motors are set up; is it running?"
        )

    def _forget(self, what: str) -> None:
        for name, future in self._futures.items():
            self._clients[INFO if name == INFO else VALUES].remove_pending_request(future)
        self._futures, self.is_known, self.problem = {}, False, self._unanswered(what)


def arm_motors(node: Node, profile: RobotProfile) -> MotorState:
    """Return the check of an ``interbotix`` arm; raises ``MissingDependencyError`` without the messages."""
    backend, joints = profile.arm_backend, profile.arm.joints
    judge = partial(too_slow, profile=profile)
    return MotorState(node, backend.topic, ("group", backend.group), "position", joints, judge)


def gripper_motor(node: Node, profile: RobotProfile) -> MotorState:
    """Return the check of an ``interbotix_pwm`` gripper; raises as ``arm_motors``."""
    backend = profile.gripper_backend
    return MotorState(node, backend.topic, ("single", backend.motor), "pwm")
