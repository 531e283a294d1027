"""Tool velocities for MoveIt Servo, within the joint limits.

With velocity alone the arm would drift from the commanded pose, so a fraction of the error is added. That
part jumps after a pause, or when the arm was pushed. Therefore each joint's velocity is limited to what is
reachable from the last one sent, in one period, within the velocity, acceleration and jerk limits. Knows
nothing of messages.
"""

from __future__ import annotations

import numpy as np

from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.motion.motion_limiter import JointMotion, MotionLimits
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose, transform_matrix_to_rotvec
from openvla_ros.values.time import nanoseconds

# The fraction of the pose error that is corrected per second.
CORRECTION_PER_S = 2.0
# Errors below these are not corrected while the arm rests, metres and radians.
REST_M, REST_RAD = 1e-3, 5e-3
# Singular directions below this fraction of the largest are excluded from the correction.
SINGULAR_SHARE = 1e-2


def correction(commanded: Pose, measured: Pose) -> Float:
    """Return the twist (6,) along the base's axes that takes the tool from measured to commanded."""
    turn = transform_matrix_to_rotvec(commanded.rotation @ measured.rotation.T)
    return CORRECTION_PER_S * np.concatenate([commanded.position - measured.position, turn])


class VelocityLimiter:
    """Velocities (J,), rad/s, one per period, with limited acceleration and jerk."""

    def __init__(self, limits: MotionLimits, period_s: float) -> None:
        self._v, self._a = limits.velocity, limits.acceleration
        self._dt, self._change = period_s, limits.jerk * period_s  # the most that an acceleration changes
        self.rest()

    def rest(self) -> None:
        """Start at rest."""
        self.velocity = np.zeros_like(self._v)
        self._acceleration = np.zeros_like(self._v)
        self._wanted = np.zeros_like(self._v)

    def follow(self, wanted: Float) -> Float:
        """Return the next velocity (J,) on the way to ``wanted`` (J,), or ``wanted`` itself if reachable."""
        wanted = np.clip(wanted, -self._v, self._v)
        trend, self._wanted = np.clip((wanted - self._wanted) / self._dt, -self._a, self._a), wanted
        miss = wanted - self.velocity
        low = np.maximum(self._acceleration - self._change, -self._a)
        high = np.minimum(self._acceleration + self._change, self._a)
        exact = miss / self._dt
        within = (exact >= low) & (exact <= high)
        rest = miss - trend * self._dt
        a = np.where(within, exact, trend + np.sign(rest) * self._approach(np.abs(rest)))
        # Never faster than what can still be turned round before the highest speed.
        high = np.minimum(high, np.maximum(low, self._approach(np.maximum(self._v - self.velocity, 0.0))))
        low = np.maximum(low, np.minimum(high, -self._approach(np.maximum(self._v + self.velocity, 0.0))))
        self._acceleration = np.clip(a, low, high)
        self.velocity = self.velocity + self._acceleration * self._dt
        return self.velocity

    def _approach(self, miss: Float) -> Float:
        """Return the acceleration from which, falling by the jerk, the speed gains just ``miss`` (J,)."""
        least = self._change * self._dt
        count = np.maximum(
            1.0, np.ceil(0.5 * (np.sqrt(1.0 + 8.0 * miss / least) - 1.0))
        )  # periods until then
        first: Float = miss / (count * self._dt) + 0.5 * self._change * (count - 1.0)
        return first


class TwistStream:
    """Turns the commanded motion of each period into the twist to send."""

    def __init__(
        self, chain: KinematicChain, limits: MotionLimits, period_s: float, timeout_s: float
    ) -> None:
        """``timeout_s`` is how long the receiver waits for a twist before it stops the arm by itself."""
        self._chain, self._timeout_ns = chain, nanoseconds(timeout_s)
        self._limiter = VelocityLimiter(limits, period_s)
        self._sent_ns: int | None = None
        self._resting = True

    def next(self, now_ns: int, motion: JointMotion, pose: Pose, measured: Float) -> Float | None:
        """Return the twist (6,) to send at ``now_ns`` for an arm at ``measured`` (J,), or None for none.

        ``pose`` is the tool's at ``motion``. Once the arm rests where it should, one zero twist is sent, then
        nothing.
        """
        if self._sent_ns is None or not 0 <= now_ns - self._sent_ns <= self._timeout_ns:
            self._limiter.rest()
        error = correction(pose, self._chain.forward(measured))
        off_m, off_rad = (float(np.linalg.norm(part)) / CORRECTION_PER_S for part in (error[:3], error[3:]))
        rest = motion.is_at_rest and off_m < REST_M and off_rad < REST_RAD
        if rest and self._resting:
            return None
        jacobian = self._chain.jacobian(motion.position)
        wanted = np.zeros(len(motion.position))
        if not rest:
            wanted = motion.velocity + np.linalg.pinv(jacobian, rcond=SINGULAR_SHARE) @ error
        velocity = self._limiter.follow(wanted)
        self._resting = rest and not velocity.any()
        self._sent_ns = now_ns
        twist: Float = jacobian @ velocity
        return twist
