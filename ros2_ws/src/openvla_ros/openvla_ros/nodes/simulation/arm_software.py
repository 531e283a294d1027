"""The software that a simulated arm runs, as its profile says.

ros2_control, alone or with crisp_controllers or franka_ros2, or Interbotix's xs_sdk. Each takes commands from
its topics, under the simulation's lock, and is asked once a tick where the motors pull.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike
from rclpy.node import Node
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.errors import InvalidValueError
from openvla_ros.nodes.simulation.controller_manager import serve_controller_manager
from openvla_ros.nodes.simulation.crisp_topics import CrispTopics
from openvla_ros.nodes.simulation.franka_topics import FrankaTopics
from openvla_ros.nodes.simulation.simulation_time import SimulationTime
from openvla_ros.nodes.simulation.xs_sdk_topics import XsSdkTopics
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.motion.joint_path import Waypoint
from openvla_ros.robot.motion.joint_trajectory_controller import JointTrajectoryController, Release
from openvla_ros.robot.motion.motion_limiter import MotionLimits
from openvla_ros.ros import qos
from openvla_ros.ros.guard import GuardedNode
from openvla_ros.ros.messages import from_duration, from_stamp
from openvla_ros.sim.dynamixel_motors import DynamixelMotors
from openvla_ros.sim.franka_hand import FrankaHand
from openvla_ros.sim.simulated_controllers import CARTESIAN, TRAJECTORY, SimulatedControllers
from openvla_ros.sim.simulated_driver import SimulatedDriver
from openvla_ros.values.arrays import Float

LARGEST_TRAJECTORY_BYTES = 256 << 10  # a planner's: 1500 points of 7 joints


@dataclass(frozen=True)
class Surroundings:
    """What the simulation lends to the arm's software."""

    node: GuardedNode
    profile: RobotProfile
    time: SimulationTime
    lock: AbstractContextManager[object]  # over everything that a tick uses
    commanded: Callable[[], None]  # the arm was given a command, for a clock that waits for them
    refuse: Callable[[str], None]  # counts why a command was not taken; call it without the lock

    def run(self, act: Callable[[], None], moves_arm: bool) -> None:
        """Run what a message asks for, under the lock."""
        with self.lock:
            if moves_arm:
                self.commanded()
            act()


class ArmSoftware(Protocol):
    """Where the motors pull, tick by tick."""

    def sample(self, now_s: float, measured: Waypoint) -> Float:
        """Return the motors' positions (J,) rad of the tick at ``now_s``."""
        ...

    def finger(self, now_s: float, measured: Waypoint) -> float:
        """Return the position of the gripper's joint, metres."""
        ...

    def publish(self, q: Float, velocity: Float, stamp_ns: int) -> None:
        """Publish what the software itself publishes of joints (J,) rad that move at (J,) rad/s."""
        ...


def arm_software(
    around: Surroundings, q: Float, release: Release, interpolate_from_desired_state: bool
) -> ArmSoftware:
    """Return the software of the profile's arm at joints (J,); the last two are for ros2_control."""
    if around.profile.arm_backend.kind == "interbotix":
        return XsSdkSoftware(around, q)
    return Ros2ControlSoftware(around, q, release, interpolate_from_desired_state)


class Ros2ControlSoftware:
    """Joint trajectory controllers, and crisp_controllers' or franka_ros2's where the profile has them."""

    def __init__(
        self, around: Surroundings, q: Float, release: Release, interpolate_from_desired_state: bool
    ) -> None:
        self._around, self._profile = around, around.profile
        self._release, self._from_desired = release, interpolate_from_desired_state
        crisp = self._profile.arm_backend.kind == "cartesian_target"
        active = CARTESIAN if crisp else TRAJECTORY
        self._arm = SimulatedControllers(self._profile, self._driver_at, q, active)
        gripper = self._profile.gripper
        self._gripper = self._controller([gripper.joint], [gripper.open_m])
        for topic, receive, moves_arm in (
            ("arm_controller", self._arm.receive_trajectory, True),
            ("gripper_controller", self._gripper.receive, False),
        ):
            around.node.create_subscription(
                JointTrajectory,
                f"{topic}/joint_trajectory",
                partial(self._trajectory, receive, moves_arm),
                qos.COMMAND,
                largest_bytes=LARGEST_TRAJECTORY_BYTES,
            )
        self._crisp = self._crisp_topics(around.node) if crisp else None
        self._hand = FrankaHand(self._profile) if self._profile.gripper_backend.kind == "franka" else None
        if self._hand is not None:
            recover = self._arm.recover
            self._franka = FrankaTopics(around.node, self._profile, self._hand, around.run, recover)
            around.node.create_service(Trigger, "simulation/reflex", self._reflex)
        serve_controller_manager(around.node, lambda: self._arm.active, self._switch, crisp)

    def sample(self, now_s: float, measured: Waypoint) -> Float:
        """As ``ArmSoftware``."""
        return self._arm.sample(now_s, measured)

    def finger(self, now_s: float, measured: Waypoint) -> float:
        """As ``ArmSoftware``."""
        if self._hand is not None:
            return self._hand.sample(1.0 / self._profile.state.rate_hz, float(measured.position[0]))
        return float(self._gripper.update(now_s, measured).position[0])

    def publish(self, q: Float, velocity: Float, stamp_ns: int) -> None:
        """As ``ArmSoftware``."""
        if self._crisp is not None:
            self._crisp.publish(q, velocity, stamp_ns)

    def open_to(self, position_m: float) -> None:
        """Let the gripper's joint go to a position at once; call it with the lock held."""
        joint = self._profile.gripper.joint
        self._gripper.receive([joint], [0.0], [[position_m]], [[]], [[]], None, self._around.time.elapsed_s)

    def _driver_at(self, q: Float) -> SimulatedDriver:
        return SimulatedDriver(
            self._controller(self._profile.arm.joints, q),
            MotionLimits.from_profile(self._profile.limits),
            1.0 / self._profile.state.rate_hz,
        )

    def _controller(self, joints: Sequence[str], positions: ArrayLike) -> JointTrajectoryController:
        period_s = 1.0 / self._profile.state.rate_hz
        return JointTrajectoryController(joints, positions, period_s, self._release, self._from_desired)

    def _crisp_topics(self, node: Node) -> CrispTopics:
        def guarded(act: Callable[..., None], moves_arm: bool = True) -> Callable[..., None]:
            return lambda *values: self._around.run(partial(act, *values), moves_arm)

        return CrispTopics(
            node,
            self._profile,
            guarded(self._arm.receive_pose),
            guarded(self._arm.receive_joints),
            guarded(self.open_to, moves_arm=False),
            self._around.refuse,
        )

    def _reflex(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._around.run(self._arm.reflex, False)
        response.success = True
        return response

    def _switch(self, activate: Sequence[str], deactivate: Sequence[str], strict: bool) -> str:
        with self._around.lock:
            return self._arm.switch(activate, deactivate, strict)

    def _trajectory(self, receive: Callable[..., None], moves_arm: bool, message: JointTrajectory) -> None:
        stamp_ns, points, time = from_stamp(message.header.stamp), message.points, self._around.time

        def take() -> None:
            receive(
                list(message.joint_names),
                [from_duration(point.time_from_start) for point in points],
                [list(point.positions) for point in points],
                [list(point.velocities) for point in points],
                [list(point.accelerations) for point in points],
                time.seconds_of(stamp_ns) if stamp_ns else None,
                time.elapsed_s,
            )

        try:
            self._around.run(take, moves_arm)
        except (InvalidValueError, ValueError) as error:
            self._around.refuse(str(error))


class XsSdkSoftware:
    """Interbotix's xs_sdk with a WidowX's motors."""

    def __init__(self, around: Surroundings, q: Float) -> None:
        self._motors = DynamixelMotors(around.profile, q)
        self._topics = XsSdkTopics(
            around.node,
            around.profile,
            self._motors,
            around.run,
            lambda: around.time.elapsed_s,
            around.refuse,
        )

    def sample(self, now_s: float, measured: Waypoint) -> Float:
        """As ``ArmSoftware``."""
        return self._motors.sample(now_s, np.asarray(measured.position))

    def finger(self, now_s: float, measured: Waypoint) -> float:
        """As ``ArmSoftware``."""
        return self._motors.finger(float(measured.position[0]))

    def publish(self, q: Float, velocity: Float, stamp_ns: int) -> None:
        """Publish nothing: xs_sdk's joint states are the simulation's."""
