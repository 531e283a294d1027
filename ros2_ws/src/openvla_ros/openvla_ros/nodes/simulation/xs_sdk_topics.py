"""The topics and services of Interbotix's xs_sdk on the simulated arm, beside the arm's command topic.

As interbotix_ros_core bf127b4 (``xs_sdk_obj.cpp``): a service that refuses a request answers it all the same,
with nothing in the answer, and says why in the log alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.node import Node

from openvla_ros.drivers.readiness.optional_messages import interface
from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import RobotProfile
from openvla_ros.ros import qos
from openvla_ros.sim.dynamixel_motors import ALL, GRIPPER, DynamixelMotors

PACKAGE = "interbotix_xs_msgs"


class XsSdkTopics:
    """Hands commands and requests to the motors, one at a time under the simulation's lock."""

    def __init__(
        self,
        node: Node,
        profile: RobotProfile,
        motors: DynamixelMotors,
        guarded: Callable[[Callable[[], None], bool], None],
        now_s: Callable[[], float],
        refuse: Callable[[str], None],
    ) -> None:
        """``guarded`` runs an action under the lock, told whether it moves the arm."""
        self._profile, self._motors, self._now_s = profile, motors, now_s
        self._guarded, self._refuse = guarded, refuse
        self._logger = node.get_logger()
        space = profile.arm_backend.topic.rsplit("/commands/", 1)[0]
        for name, kind, act in (
            ("joint_group", "JointGroupCommand", self._group),
            ("joint_single", "JointSingleCommand", self._single),
        ):
            message = interface(f"{PACKAGE}/msg/{kind}", "the simulated xs_sdk")
            node.create_subscription(
                message, f"{space}/commands/{name}", partial(self._take, name, act), qos.COMMAND
            )
        for service, kind, answer in (
            ("torque_enable", "TorqueEnable", self._torque),
            ("reboot_motors", "Reboot", self._reboot),
            ("get_robot_info", "RobotInfo", self._info),
            ("set_operating_modes", "OperatingModes", self._modes),
            ("set_motor_pid_gains", "MotorGains", self._gains),
            ("set_motor_registers", "RegisterValues", self._write),
            ("get_motor_registers", "RegisterValues", self._read),
        ):
            request = interface(f"{PACKAGE}/srv/{kind}", "the simulated xs_sdk")
            node.create_service(request, f"{space}/{service}", partial(self._answer, service, answer))

    # -- commands

    def _take(self, topic: str, act: Callable[[Any], None], message: Any) -> None:
        try:
            self._guarded(partial(act, message), topic == "joint_group")
        except InvalidValueError as error:
            self._refuse(f"commands/{topic}: {error}")

    def _group(self, message: Any) -> None:
        self._motors.command_group(message.name, [float(value) for value in message.cmd], self._now_s())

    def _single(self, message: Any) -> None:
        self._motors.command_single(message.name, float(message.cmd), self._now_s())

    # -- services

    def _answer(self, service: str, act: Callable[[Any, Any], None], request: Any, response: Any) -> Any:
        try:
            self._guarded(partial(act, request, response), False)
        except InvalidValueError as error:
            self._logger.error(f"{service}: {error}")
            return type(response)()
        return response

    def _torque(self, request: Any, _response: Any) -> None:
        self._motors.set_torque(request.cmd_type, request.name, request.enable)

    def _reboot(self, request: Any, _response: Any) -> None:
        if not request.smart_reboot:  # else only motors in an error, and here none is
            self._motors.set_torque(request.cmd_type, request.name, request.enable)

    def _modes(self, request: Any, _response: Any) -> None:
        self._motors.set_modes(
            request.cmd_type,
            request.name,
            request.mode,
            request.profile_type,
            request.profile_velocity,
            request.profile_acceleration,
        )

    def _gains(self, request: Any, _response: Any) -> None:
        self._motors.names(request.cmd_type, request.name)  # the simulated motors have no such gains

    def _write(self, request: Any, _response: Any) -> None:
        self._motors.write_register(request.cmd_type, request.name, request.reg, request.value)

    def _read(self, request: Any, response: Any) -> None:
        response.values = self._motors.read_register(request.cmd_type, request.name, request.reg)

    def _info(self, request: Any, response: Any) -> None:
        motors, profile = self._motors, self._profile
        names = motors.names(request.cmd_type, request.name)
        of_group = request.cmd_type == "group"
        set_up = motors.group_modes[request.name] if of_group else motors.motors[request.name]
        response.mode, response.profile_type = set_up.mode, set_up.profile_type
        joints, states = list(profile.arm.joints), [*profile.arm.joints, profile.gripper.joint]
        sleep = dict(zip(joints, profile.arm.park, strict=True))
        limits = profile.limits
        response.num_joints = len(names)
        for name in names:
            # A gripper's motor is told by its finger, as the joint states do.
            shown = profile.gripper.joint if name == GRIPPER else name
            response.joint_names.append(shown)
            response.joint_ids.append(len(response.joint_ids) + 1)
            response.joint_state_indices.append(states.index(shown))
            i = joints.index(name) if name != GRIPPER else None
            response.joint_sleep_positions.append(profile.gripper.closed_m if i is None else sleep[name])
            response.joint_lower_limits.append(
                profile.gripper.closed_m if i is None else limits.joint_lower[i]
            )
            response.joint_upper_limits.append(profile.gripper.open_m if i is None else limits.joint_upper[i])
            response.joint_velocity_limits.append(1.0 if i is None else limits.joint_velocity[i])
        response.name = list(motors.groups) if request.name == ALL else [request.name]
