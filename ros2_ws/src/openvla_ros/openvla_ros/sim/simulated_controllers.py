"""The controllers that ros2_control could run on the simulated arm, one of them active.

A joint trajectory controller, and what a lab with crisp_controllers has beside it: a Cartesian and a joint
impedance controller, which pull the arm toward the last target through a first-order filter
(crisp_controllers 1.0, ``cartesian_controller.cpp``, ``filter.target_pose``). Here the motors follow
positions, so the pull is an inverse kinematics step; the arm's limiter comes last, as in its firmware.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.inverse_kinematics import InverseKinematics
from openvla_ros.robot.motion.joint_path import Waypoint
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimits
from openvla_ros.robot.motion.setpoint_limiter import SetpointLimiter
from openvla_ros.sim.simulated_driver import SimulatedDriver
from openvla_ros.values.arrays import Float, float_array
from openvla_ros.values.geometry import Pose, transform_matrix_to_rotvec, transform_rotvec_to_matrix

TRAJECTORY, CARTESIAN, JOINT = (
    "arm_controller", "cartesian_impedance_controller", "joint_impedance_controller"
)  # fmt: skip
TYPES = {
    TRAJECTORY: "joint_trajectory_controller/JointTrajectoryController",
    CARTESIAN: "crisp_controllers/CartesianController",
    JOINT: "crisp_controllers/CartesianController",  # with joint stiffness alone
}
# Share of the way to a new target in each period of 10 ms; crisp's own is for 1 ms.
FILTER = 0.2


class SimulatedControllers:
    """Setpoints of J motors, one per period, by whichever controller is active; none: the arm brakes."""

    def __init__(
        self, profile: RobotProfile, make_driver: Callable[[Float], SimulatedDriver], q: Float, active: str
    ) -> None:
        """``make_driver`` makes the joint trajectory controller's driver, at rest at joints (J,)."""
        self._profile, self._make_driver = profile, make_driver
        self._chain = KinematicChain.from_profile(profile.arm)
        limits = MotionLimits.from_profile(profile.limits)
        self._inverse = InverseKinematics(
            self._chain, limits.lower, limits.upper, limits.velocity, profile.arm.neutral
        )
        self._limiter = SetpointLimiter(limits, 1.0 / profile.state.rate_hz)
        self._sent = JointMotion.at_rest(q)
        self._driver = make_driver(q)
        self.active: str | None = None
        self.in_reflex = False
        self._activate(active)

    def reflex(self) -> None:
        """Stop as a Franka arm does by itself when it is pushed: ros2_control then deactivates what uses it.

        No controller can be activated before ``recover``, and none is by it.
        """
        self.active, self.in_reflex = None, True

    def recover(self) -> None:
        """End a reflex."""
        self.in_reflex = False

    def switch(self, activate: Sequence[str], deactivate: Sequence[str], strict: bool) -> str:
        """Switch as the controller manager does; return why not, or an empty string.

        Only one may claim the joints; one that is to be activated and deactivated starts again. Unless
        ``strict``, what is not loaded is left out, and what is so already is no error (ros2_control 6.9.0,
        ``controller_manager.cpp``).
        """
        if strict and (unknown := [name for name in (*activate, *deactivate) if name not in TYPES]):
            return f"controllers {unknown} are not loaded; there are {', '.join(TYPES)}"
        if strict and any(name != self.active for name in deactivate):
            return f"{list(deactivate)} are not all active"
        wanted = [n for n in activate if n in TYPES and (n != self.active or n in deactivate)]
        if wanted and self.in_reflex:
            return f"{wanted} cannot be activated: the arm is in a reflex, and its hardware is not active"
        if strict and len(wanted) < len(activate):
            return f"{self.active} is active already"
        left = None if self.active in deactivate else self.active
        if len({*wanted, *([left] if left else [])}) > 1:
            return f"{wanted} and {left} would claim the same joints"
        if left is None and wanted:
            self._activate(wanted[0])
        elif left is None:
            self.active = None
        return ""

    def receive_trajectory(self, *message: Any) -> None:
        """As ``SimulatedDriver.receive``; dropped while another controller is active."""
        if self.active == TRAJECTORY:
            self._driver.receive(*message)

    def receive_pose(self, pose: Pose) -> None:
        """Take the tool's next target in the base frame; dropped while another controller is active."""
        if self.active == CARTESIAN:
            self._wanted_pose = pose

    def receive_joints(self, names: Sequence[str], positions: Sequence[float]) -> None:
        """Take the joints' next target, rad; raises ``InvalidValueError`` for other joints or no numbers."""
        if self.active != JOINT:
            return
        by_name = dict(zip(names, positions, strict=True))
        if missing := [name for name in self._profile.arm.joints if name not in by_name]:
            raise InvalidValueError(f"target_joint lacks {missing}; it has {list(names)}")
        joints = self._profile.arm.joints
        q = float_array("target_joint", [by_name[name] for name in joints], (len(joints),))
        self._wanted_joints = np.clip(q, self._inverse.lower, self._inverse.upper)

    def sample(self, now_s: float, measured: Waypoint) -> Float:
        """Return the setpoints (J,) of the period at ``now_s``, within the limits from the previous ones."""
        if self.active == TRAJECTORY:
            self._sent = self._driver.sample_motion(now_s, measured)
        elif self.active is None:
            self._sent = self._limiter.stop(self._sent)
        else:
            target = self._toward_pose() if self.active == CARTESIAN else self._toward_joints()
            self._sent = self._limiter.approach(self._sent, JointMotion.at_rest(target))
        return self._sent.position

    def _activate(self, name: str) -> None:
        """Let a controller begin where the arm is commanded, as ros2_control's do at ``on_activate``."""
        if name not in TYPES:
            raise InvalidValueError(f"controller {name!r} is not one of {', '.join(TYPES)}")
        self.active = name
        q = self._sent.position
        self._pose = self._wanted_pose = self._chain.forward(q)
        self._reference = self._wanted_joints = q
        if name == TRAJECTORY:
            self._driver = self._make_driver(q)
            self._driver.take_up(self._sent)

    def _toward_pose(self) -> Float:
        self._pose = blended(self._pose, self._wanted_pose, FILTER)
        step = self._inverse.step(self._reference, self._pose.matrix, self._limiter.period_s)
        self._reference = step.q
        return self._reference

    def _toward_joints(self) -> Float:
        self._reference = self._reference + FILTER * (self._wanted_joints - self._reference)
        return self._reference


def blended(start: Pose, end: Pose, share: float) -> Pose:
    """Return the pose a ``share`` of the way from ``start`` to ``end``, the rotation about one axis."""
    turn: ArrayLike = share * transform_matrix_to_rotvec(end.rotation @ start.rotation.T)
    position = start.position + share * (end.position - start.position)
    return Pose(position, transform_rotvec_to_matrix(turn) @ start.rotation)
