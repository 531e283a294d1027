"""Stopping, and staying stopped: what the commanded joints do while nothing is executed."""

from __future__ import annotations

from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimiter
from openvla_ros.robot.safety.robot_watch import RobotWatch
from openvla_ros.values.verdict import Reason

# Faults in which the arm pushes against something: the commanded joints then go to the measured ones.
PUSHING = (Reason.TRACKING, Reason.EFFORT, Reason.WRENCH)


class Stopping:
    """Brings the commanded joints to rest and keeps them there."""

    def __init__(self, limiter: MotionLimiter) -> None:
        self._limiter = limiter

    def advance(
        self, motion: JointMotion, watch: RobotWatch, elapsed_s: float, *, latched: bool, barred: bool
    ) -> JointMotion | None:
        """Return the motion one period of ``elapsed_s`` later, along the fastest stop.

        Pushed against something, and with no stop ``latched``, the joints go to where the arm really is.
        None: the arm rests and is ``barred``: nothing is commanded any more, whoever moves it from there.
        """
        robot, fault = watch.robot, watch.fault
        pushing = fault is not None and fault.reason in PUSHING and not latched
        if pushing and robot is not None:
            measured = JointMotion.at_rest(robot.positions)
            return self._limiter.follow(motion, measured, elapsed_s)
        stopping = self._limiter.stop(motion, elapsed_s)
        return None if barred and stopping.is_at_rest else stopping
