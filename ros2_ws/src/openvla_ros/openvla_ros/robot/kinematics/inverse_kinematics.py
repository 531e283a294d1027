"""Inverse kinematics: one bounded step per control tick, and a solver for start poses.

A step is a damped Gauss-Newton step toward the target pose. Each singular direction is damped separately,
the more the smaller its singular value (Maciejewski and Klein, 1988), so well-conditioned directions stay
exact at a singularity. A joint that would exceed its limit is locked and the rest is solved again; the step
is then scaled as a whole to the velocity limits, which preserves its direction. With seven joints the null
space pulls toward a posture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from openvla_ros.errors import KinematicsError
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.values.arrays import Float, float_array
from openvla_ros.values.geometry import Pose, transform_matrix_to_rotvec

# Metres of position error that weigh as much as one radian: about the arm's reach beyond the wrist.
ORIENTATION_WEIGHT = 0.3
# Singular values (of the weighted Jacobian, metres per radian) below this one are damped.
SINGULAR_VALUE = 0.04
# Damping at a vanished singular value, and everywhere.
DAMPING = 0.04
BASE_DAMPING = 1e-4
# Damping for each unit of squared error (Sugihara, 2011): what makes a target out of reach come to rest.
ERROR_DAMPING = 2.0
# A longer weighted error, in metres, is shortened to this before a step: farther off, the
# linearisation says little.
LONGEST_STEP = 0.03
# Starting points that ``solve`` tries after the one it was given and the posture.
RANDOM_SEEDS = 12
# Steps of ``solve`` from one starting point. Beside a singularity the damping makes the last millimetres
# slow: this near to the target, Levenberg and Marquardt's steps follow, damped as little as each allows.
STEPS, NEAR_M, NEAR_RAD = 300, 0.05, 0.25
FINE_STEPS, FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 100, 1e-6, 1e-13, 1e2
# Share of the way to the posture that one step takes in the null space.
POSTURE_GAIN = 0.02


@dataclass(frozen=True, eq=False)
class InverseStep:
    """The result of one step, and the error before it."""

    q: Float  # (J,) radians, within the joint limits
    position_error_m: float  # before the step
    rotation_error_rad: float
    saturation: float  # the step was divided by this to keep the velocity limits; 1 means not at all


def rotation_error(target: Float, current: Float) -> Float:
    """Return the rotation vector (3,), base frame, radians, from ``current`` to ``target``."""
    r = target @ current.T
    # In plain numbers: numpy costs more on so few. Sums of products stay with numpy, which may fuse them.
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = r.tolist()
    sine = np.array([0.5 * (zy - yz), 0.5 * (xz - zx), 0.5 * (yx - xy)])
    cosine = 0.5 * (xx + yy + zz - 1.0)
    length = math.sqrt(sine.dot(sine))
    if cosine < -0.99:  # near half a turn the sine does not determine the axis
        return transform_matrix_to_rotvec(r)
    error: Float = sine if length < 1e-9 else sine * (math.atan2(length, cosine) / length)
    return error


class InverseKinematics:
    """Steps of one chain within joint position and velocity limits."""

    def __init__(
        self,
        chain: KinematicChain,
        lower: ArrayLike,
        upper: ArrayLike,
        velocity: ArrayLike,
        posture: ArrayLike | None = None,
        orientation_weight: float = ORIENTATION_WEIGHT,
    ) -> None:
        count = len(chain.joints)
        self.chain = chain
        self.lower = float_array("lower joint limits", lower, (count,))
        self.upper = float_array("upper joint limits", upper, (count,))
        self.velocity = float_array("joint velocity limits", velocity, (count,))
        middle = 0.5 * (self.lower + self.upper) if posture is None else posture
        self.posture = float_array("posture", middle, (count,))
        self._weights = np.array([1.0, 1.0, 1.0, *(orientation_weight,) * 3])
        self._rows = self._weights[:, None]

    def step(self, q: Float, target: Float, dt: float) -> InverseStep:
        """Return the step from ``q`` (J,), radians, toward tool pose ``target`` (4, 4) in ``dt`` seconds."""
        frames = self.chain.frames(q)
        tool = frames[-1]
        error = np.empty(6)
        error[:3] = target[:3, 3] - tool[:3, 3]
        error[3:] = rotation_error(target[:3, :3], tool[:3, :3])
        jacobian = self.chain.jacobian_of(frames) * self._rows
        *offset, x, y, z = error.tolist()
        position, rotation = math.hypot(*offset), math.hypot(x, y, z)
        error *= self._weights
        length = math.sqrt(error.dot(error))
        if length > LONGEST_STEP:
            error *= LONGEST_STEP / length
        change = self._change(jacobian, error, q)
        saturation = max(1.0, float((np.abs(change) / self.velocity).max()) / dt)
        following = np.minimum(np.maximum(q + change / saturation, self.lower), self.upper)
        return InverseStep(following, position, rotation, saturation)

    def _change(self, jacobian: Float, error: Float, q: Float) -> Float:
        change = np.zeros(len(q))
        free = np.ones(len(q), dtype=bool)
        for locked in range(len(q)):
            # All of them, or a selection, which numpy stores column by column too.
            columns = jacobian[:, free] if locked else np.asfortranarray(jacobian)
            change = np.zeros(len(q))
            change[free] = self._least_squares(columns, error, (self.posture - q)[free])
            there = q + change
            beyond = free & ((there < self.lower) | (there > self.upper))
            if not beyond.any():
                return change
            # A joint on its limit that is pushed outwards does not move; the others make up for it.
            at_limit = beyond & ((q <= self.lower + 1e-9) | (q >= self.upper - 1e-9))
            if not at_limit.any():
                return self._to_nearest_limit(q, change)
            free &= ~at_limit
        return change

    def _to_nearest_limit(self, q: Float, change: Float) -> Float:
        """Shorten ``change`` until the first joint reaches its limit; the next step continues from there."""
        room = np.where(change > 0.0, self.upper - q, q - self.lower)
        moving = np.abs(change) > 1e-12
        shortened: Float = change * min(1.0, float(np.min(room[moving] / np.abs(change[moving]))))
        return shortened

    def _least_squares(self, jacobian: Float, error: Float, to_posture: Float) -> Float:
        squares, basis = np.linalg.eigh(jacobian @ jacobian.T)
        by_error = ERROR_DAMPING * float(error.dot(error))
        gains = []
        for square in squares.tolist():
            singular = math.sqrt(square) if square > 0.0 else 0.0
            fading = DAMPING * max(0.0, 1.0 - singular / SINGULAR_VALUE)
            gains.append(1.0 / (singular * singular + (fading * fading + by_error + BASE_DAMPING**2)))
        inverse = (jacobian.T @ basis) * np.array(gains) @ basis.T
        change: Float = inverse @ error
        if jacobian.shape[1] > 6:
            null = POSTURE_GAIN * to_posture
            change = change + null - inverse @ (jacobian @ null)
        return change

    def solve(
        self, pose: Pose, q: ArrayLike, tolerance_m: float = 1e-4, tolerance_rad: float = 1e-3
    ) -> Float:
        """Return joint positions (J,), radians, that put the tool at ``pose``, starting the search at ``q``.

        Raises ``KinematicsError`` with the remaining error of the best attempt.
        """
        target, best = pose.matrix, (math.inf, math.inf)
        random = np.random.default_rng(0).uniform(self.lower, self.upper, (RANDOM_SEEDS, len(self.lower)))
        for seed in (np.asarray(q, dtype=np.float64), self.posture, *random):
            current: Float = np.clip(seed, self.lower, self.upper)
            for count in range(STEPS + 1):
                step = self.step(current, target, dt=0.1)
                errors = (step.position_error_m, step.rotation_error_rad)
                if errors[0] < tolerance_m and errors[1] < tolerance_rad:
                    return current
                best = min(best, errors)
                # From a start that is near already, too: the solution beside it.
                if count in (0, STEPS) and errors[0] < NEAR_M and errors[1] < NEAR_RAD:
                    found, errors = self._refined(current, target, tolerance_m, tolerance_rad)
                    if errors[0] < tolerance_m and errors[1] < tolerance_rad:
                        return found
                    best = min(best, errors)
                current = step.q
        where, angles = np.round(pose.position, 4).tolist(), np.round(pose.euler_xyz, 3).tolist()
        raise KinematicsError(
            f"tool pose at {where} with angles {angles} is not reachable: "
            f"the closest solution is {best[0]:.4f} m and {best[1]:.3f} rad away"
        )

    def _refined(
        self, q: Float, target: Float, tolerance_m: float, tolerance_rad: float
    ) -> tuple[Float, tuple[float, float]]:
        """Return joints near ``q`` that come closer to ``target``, and their errors, metres and radians.

        Levenberg and Marquardt's method: the damping falls while the error does, and rises until it does.
        """
        error, jacobian = self._error(q, target)
        damping = FIRST_DAMPING
        for _ in range(FINE_STEPS):
            if math.hypot(*error[:3]) < tolerance_m and math.hypot(*error[3:]) < tolerance_rad:
                break
            squares = jacobian.T @ jacobian + damping * np.eye(len(q))
            tried: Float = np.clip(q + np.linalg.solve(squares, jacobian.T @ error), self.lower, self.upper)
            tried_error, tried_jacobian = self._error(tried, target)
            if tried_error @ tried_error < error @ error:
                q, error, jacobian = tried, tried_error, tried_jacobian
                damping = max(0.1 * damping, LEAST_DAMPING)
            elif damping > MOST_DAMPING:
                break
            else:
                damping *= 10.0
        return q, (math.hypot(*error[:3]), math.hypot(*error[3:]))

    def _error(self, q: Float, target: Float) -> tuple[Float, Float]:
        """Return what is left to ``target`` (6,), metres and radians, and the Jacobian (6, J)."""
        frames = self.chain.frames(q)
        tool = frames[-1]
        turn = rotation_error(target[:3, :3], tool[:3, :3])
        return np.concatenate([target[:3, 3] - tool[:3, 3], turn]), self.chain.jacobian_of(frames)
