"""The references that franky tracks: each is reachable in one period from the last, and near the arm.

franky's tracker takes any reference and keeps it for ever. So here, once more, after the controller and the
setpoint node: the profile's limits, the FR3's velocity limits (``velocity_envelope``), and a leash between
reference and measured joints, which with the stiffness bounds the torque.
"""

from __future__ import annotations

import numpy as np

from openvla_ros.franka_driver.velocity_envelope import fastest_down, fastest_up
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimits
from openvla_ros.robot.motion.setpoint_limiter import SetpointLimiter
from openvla_ros.values.arrays import Float

# Setpoints are within the limits; a cubic between two of them exceeds their accelerations by less than this.
ACCELERATION_ROOM = 1.1
# ... and its mean velocity over a period differs from that of its ends by less than this share of a change of
# velocity in one period. What differs by more is no motion, but a jump.
JUMP_SHARE = 0.05
ROOM = 1e-3
# An arm that stands farther than this from its setpoints when control begins goes to them with this share
# of the limits.
JOINING_RAD, JOINING_SHARE = 0.02, 0.1
JOINED_RAD = 1e-3  # it has arrived


class Reference:
    """The reference of one arm; starts at rest at a place."""

    def __init__(self, limits: MotionLimits, period_s: float, leash_rad: float) -> None:
        self._limits, self._period_s, self._leash_rad = limits, period_s, leash_rad
        self._limiter = SetpointLimiter(limits, period_s)
        self._slowly = SetpointLimiter(limits.scaled(JOINING_SHARE), period_s)
        self._joined = self._joining = False
        self._rate = np.zeros_like(limits.lower)
        self.motion = JointMotion.at_rest(limits.lower)
        self.held_back = 0  # how often the leash or the velocity limits kept a joint back

    def start(self, measured: Float) -> None:
        """Begin at rest at the measured joints (J,), rad."""
        place = np.clip(measured, self._limits.lower, self._limits.upper)
        self.motion, self._rate = JointMotion.at_rest(place), np.zeros_like(place)
        self._joined = self._joining = False

    def follow(self, target: JointMotion, measured: Float) -> JointMotion:
        """Return the next reference on the way to ``target``."""
        away_rad = np.abs(target.position - self.motion.position).max()
        self._joined = self._joined or away_rad < (JOINED_RAD if self._joining else JOINING_RAD)
        if not self._joined:
            self._joining = True
            return self._keep(self._slowly.approach(self.motion, target), measured)
        return self._keep(self._within(target) or self._limiter.approach(self.motion, target), measured)

    def brake(self, measured: Float) -> JointMotion:
        """Return the next reference on the fastest stop within the limits."""
        return self._keep(self._limiter.stop(self.motion), measured)

    @property
    def at_rest(self) -> bool:
        """Whether the reference does not move."""
        return self.motion.is_at_rest

    def _within(self, target: JointMotion) -> JointMotion | None:
        """Return ``target`` if the limits allow being there in one period."""
        rate = (target.position - self.motion.position) / self._period_s
        change = (rate - self._rate) / self._period_s
        if np.any(np.abs(rate) > self._limits.velocity * (1.0 + ROOM)):
            return None
        if np.any(np.abs(change) > self._limits.acceleration * ACCELERATION_ROOM):
            return None
        jump = np.abs(rate - 0.5 * (self.motion.velocity + target.velocity))
        if np.any(jump > JUMP_SHARE * self._limits.acceleration * self._period_s):
            return None
        most = self._limits.acceleration
        return JointMotion(target.position, target.velocity, np.clip(change, -most, most))

    def _keep(self, motion: JointMotion, measured: Float) -> JointMotion:
        """Return ``motion``, kept within the FR3's velocity limits and the leash."""
        before, period_s = self.motion.position, self._period_s
        rate = (motion.position - before) / period_s
        allowed = np.clip(rate, fastest_down(before), fastest_up(before))
        place = before + allowed * period_s
        # The leash goes before the velocity: a reference that stays behind an arm that is pushed pulls at it.
        place = np.clip(place, measured - self._leash_rad, measured + self._leash_rad)
        held = np.abs(place - motion.position) > 1e-9
        if np.any(held):
            self.held_back += 1
            motion = JointMotion(
                np.where(held, place, motion.position),
                np.where(held, 0.0, motion.velocity),
                np.where(held, 0.0, motion.acceleration),
            )
        self._rate = (motion.position - before) / period_s
        self.motion = motion
        return motion
