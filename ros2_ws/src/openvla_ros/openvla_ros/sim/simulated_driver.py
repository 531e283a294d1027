"""What stands between the topics and the motors of the simulated arm: a controller and a last guard.

The trajectories go through ros2_control's joint trajectory controller in small. What that commands can
jump: with its defaults a message that comes late takes effect at once, wherever the arm is. So, as in
the firmware of a good arm, a limiter stands between it and the motors.
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
    """The setpoints of J motors, one a period; seconds of the robot's own time."""

    def __init__(self, controller: JointTrajectoryController, limits: MotionLimits, period_s: float) -> None:
        """Begin at rest where ``controller`` commands the joints to be."""
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
        """Return the setpoints (J,) of the period at ``now_s``: within the limits from the ones before."""
        controller, sent = self._controller, self._sent
        command = controller.update(now_s, measured)
        path = controller.path()
        if path is None:
            motion = self._limiter.approach(sent, JointMotion.at_rest(command.position))
        else:
            at_s = now_s + controller.ahead_s
            motion = self._limiter.follow(sent, path, at_s - self._limiter.period_s, at_s)
        self._sent = motion
        return motion.position
