"""Teleoperation devices read from topics: ``joy``, ``spacenav``, a leader arm's joint states.

A silent topic counts as a released switch.
"""

from __future__ import annotations

import time

import numpy as np
from geometry_msgs.msg import Twist
from rclpy.node import Node
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Bool

from openvla_ros.profile import RobotProfile
from openvla_ros.ros import qos
from openvla_ros.streams.sampling import arm_sample, proprioception
from openvla_ros.teleop import gamepad, leader, spacemouse
from openvla_ros.teleop.command import TeleopCommand
from openvla_ros.values.arrays import Float

# joy_node repeats its state 20 times a second, spacenav 50 times or more.
SILENT_S = 0.3


class JoyTopic:
    """A gamepad through ``joy_node``."""

    help = gamepad.HELP

    def __init__(self, node: Node) -> None:
        self._map = gamepad.GamepadMap()
        self._message: Joy | None = None
        self._heard_s = 0.0
        self._subscription = node.create_subscription(Joy, "joy", self._take, qos.NEWEST_IN)

    def read(self, now_s: float) -> TeleopCommand:
        """Return the current command."""
        if self._message is None:
            return TeleopCommand.released()
        command = self._map.command(self._message.axes, self._message.buttons)
        silent = now_s - self._heard_s > SILENT_S
        return TeleopCommand.released(command.events) if silent else command

    def close(self) -> None:
        """Do nothing: the node owns the subscription."""

    def _take(self, message: Joy) -> None:
        self._message, self._heard_s = message, time.monotonic()


class SpacenavTopic:
    """A SpaceMouse through the ``spacenav`` node."""

    help = spacemouse.HELP

    def __init__(self, node: Node) -> None:
        self._map = spacemouse.SpaceMouseMap()
        self._motion, self._rotation, self._buttons = np.zeros(3), np.zeros(3), 0
        self._heard_s = 0.0
        self._subscriptions = [
            node.create_subscription(Twist, "spacenav/twist", self._twist, qos.NEWEST_IN),
            node.create_subscription(Joy, "spacenav/joy", self._joy, qos.NEWEST_IN),
        ]

    def read(self, now_s: float) -> TeleopCommand:
        """Return the current command."""
        if now_s - self._heard_s > SILENT_S:
            self._motion, self._rotation = np.zeros(3), np.zeros(3)
        return self._map.command(self._motion, self._rotation, self._buttons)

    def close(self) -> None:
        """Do nothing: the node owns the subscriptions."""

    def _twist(self, message: Twist) -> None:
        v, w = message.linear, message.angular
        self._motion = np.clip([v.x, v.y, v.z], -1.0, 1.0)
        self._rotation = np.clip([w.x, w.y, w.z], -1.0, 1.0)
        self._heard_s = time.monotonic()

    def _joy(self, message: Joy) -> None:
        self._buttons = sum(1 << bit for bit, down in enumerate(message.buttons) if down)


class LeaderTopic:
    """A leader arm of the same build: ``leader/joint_states``, and a dead man's switch.

    The switch is a pedal or button on ``teleop/dead_man`` (Bool, repeated), or LB of a gamepad on
    ``joy``, whose other buttons work as well.
    """

    help = "hold the pedal (teleop/dead_man) or LB of a gamepad (joy) and move the leader arm"

    def __init__(self, node: Node, profile: RobotProfile) -> None:
        self._profile = profile
        self._joy = JoyTopic(node)
        self._joints: tuple[Float, float] | None = None
        self._heard_s = self._pedal_s = 0.0
        self._pedal = False
        self._subscriptions = [
            node.create_subscription(JointState, "leader/joint_states", self._state, qos.NEWEST_IN),
            node.create_subscription(Bool, "teleop/dead_man", self._switch, qos.NEWEST_IN),
        ]

    def read(self, now_s: float) -> TeleopCommand:
        """Return whether the switch is held, and the presses."""
        command = self._joy.read(now_s)
        pedal = self._pedal and now_s - self._pedal_s <= SILENT_S
        fresh = self._joints is not None and now_s - self._heard_s <= leader.SILENT_S
        held = fresh and (pedal or command.held)
        return TeleopCommand(held, np.zeros(3), np.zeros(3), command.events)

    def joints(self) -> tuple[Float, float] | None:
        """Return the leader's joint positions (J,) radians and its gripper's opening 0 .. 1."""
        return self._joints

    def close(self) -> None:
        """Do nothing: the node owns the subscriptions."""

    def _state(self, message: JointState) -> None:
        sample = arm_sample(self._profile, message.name, message.position)
        if sample is not None:
            self._joints = proprioception(self._profile, sample)
            self._heard_s = time.monotonic()

    def _switch(self, message: Bool) -> None:
        self._pedal, self._pedal_s = message.data, time.monotonic()
