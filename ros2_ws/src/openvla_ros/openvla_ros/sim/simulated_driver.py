"""The driver of the simulated arm, between topics and motors: a controller and a limiter.

The trajectories go through a model of ros2_control's joint trajectory controller. Its commands can jump:
with its defaults, a late message takes effect at once, wherever the arm is. So, as in the firmware of a
good arm, a limiter follows it.
"""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import ArrayLike

from openvla_ros.robot.motion.joint_path import Waypoint
from openvla_ros.robot.motion.joint_trajectory_controller import JointTrajectoryController
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimits
from openvla_ros.robot.motion.setpoint_limiter import SetpointLimiter
from openvla_ros.values.arrays import Float


class SimulatedDriver:
    """The setpoints of J motors, one per period; times are seconds on the robot's clock."""

    def __init__(self, controller: JointTrajectoryController, limits: MotionLimits, period_s: float) -> None:
        """Start at rest at the positions that ``controller`` commands."""
        self._controller = controller
        self._limiter = SetpointLimiter(limits, period_s)
        self._sent = controller.command

    def receive(
        self,
        names: Sequence[str],
        times_s: Sequence[float],
        positions: Sequence[ArrayLike],
        velocities: Sequence[ArrayLike],
        accelerations: Sequence[ArrayLike],
        stamp_s: float | None,
        now_s: float,
    ) -> None:
        """As ``JointTrajectoryController.receive``."""
        self._controller.receive(names, times_s, positions, velocities, accelerations, stamp_s, now_s)

    def sample(self, now_s: float, measured: Waypoint) -> Float:
        """Return the setpoints (J,) of the period at ``now_s``, within the limits from the previous ones."""
        return self.sample_motion(now_s, measured).position

    def take_up(self, motion: JointMotion) -> None:
        """Go on from a motion that another driver has commanded."""
        self._sent = motion

    def sample_motion(self, now_s: float, measured: Waypoint) -> JointMotion:
        """As ``sample``; return the whole motion."""
        controller, sent = self._controller, self._sent
        command = controller.update(now_s, measured)
        path = controller.path()
        if path is None:
            motion = self._limiter.approach(sent, JointMotion.at_rest(command.position))
        else:
            at_s = now_s + controller.ahead_s
            motion = self._limiter.follow(sent, path, at_s - self._limiter.period_s, at_s)
        self._sent = motion
        return motion
