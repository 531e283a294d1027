"""The arithmetic of a control period as it is written down, for comparison with what the package computes.

Same operations in the same order, so that the results must be equal bit for bit; only slower. What the
package leaves out because it cannot change the outcome is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import numpy as np

from openvla_ros.robot.kinematics import inverse_kinematics as ik
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.motion import motion_limiter, tool_path
from openvla_ros.robot.motion.fastest_stop import state_along, stop_phases, stop_way
from openvla_ros.robot.motion.tool_path import ToolPath
from openvla_ros.robot.safety.checked_room import CheckedRoom
from openvla_ros.values import geometry


def frames(chain: KinematicChain, q) -> np.ndarray:
    angles = np.asarray(q, dtype=np.float64)
    if not chain._coupling.plain:
        angles = chain._coupling.positions(angles)
    part = angles[..., None, None]
    local = chain._constant + np.sin(part) * chain._sine + (1.0 - np.cos(part)) * chain._cosine
    local += part * chain._linear
    out = np.empty((*angles.shape[:-1], local.shape[-3] + 1, 4, 4))
    out[..., 0, :, :] = local[..., 0, :, :]
    for i in range(1, local.shape[-3]):
        out[..., i, :, :] = out[..., i - 1, :, :] @ local[..., i, :, :]
    out[..., -1, :, :] = out[..., -2, :, :] @ chain._tool
    return out


def jacobian_of(chain: KinematicChain, placed: np.ndarray) -> np.ndarray:
    axes = (placed[:-1, :3, :3] @ chain._axes[:, :, None])[:, :, 0]
    arms = placed[-1, :3, 3] - placed[:-1, :3, 3]
    out = np.empty((6, len(axes)))
    out[0] = axes[:, 1] * arms[:, 2] - axes[:, 2] * arms[:, 1]
    out[1] = axes[:, 2] * arms[:, 0] - axes[:, 0] * arms[:, 2]
    out[2] = axes[:, 0] * arms[:, 1] - axes[:, 1] * arms[:, 0]
    out[:3] = np.where(chain._revolute.T > 0, out[:3], axes.T)
    out[3:] = (axes * chain._revolute).T
    return out if chain._coupling.plain else out @ chain._coupling.follow


def rotation_error(target: np.ndarray, current: np.ndarray) -> np.ndarray:
    r = target @ current.T
    sine = 0.5 * np.array([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]])
    cosine = 0.5 * (r[0, 0] + r[1, 1] + r[2, 2] - 1.0)
    length = math.sqrt(float(sine @ sine))
    if cosine < -0.99:
        return geometry.transform_matrix_to_rotvec(r)
    return sine if length < 1e-9 else sine * (math.atan2(length, cosine) / length)


def step(solver: ik.InverseKinematics, q: np.ndarray, target: np.ndarray, dt: float) -> ik.InverseStep:
    placed = frames(solver.chain, q)
    tool = placed[-1]
    error = np.empty(6)
    error[:3] = target[:3, 3] - tool[:3, 3]
    error[3:] = rotation_error(target[:3, :3], tool[:3, :3])
    jacobian = jacobian_of(solver.chain, placed) * solver._weights[:, None]
    position, rotation = math.hypot(*error[:3]), math.hypot(*error[3:])
    error *= solver._weights
    length = math.sqrt(float(error @ error))
    if length > ik.LONGEST_STEP:
        error *= ik.LONGEST_STEP / length
    change = joint_change(solver, jacobian, error, q)
    saturation = max(1.0, float(np.max(np.abs(change) / solver.velocity)) / dt)
    following = np.minimum(np.maximum(q + change / saturation, solver.lower), solver.upper)
    return ik.InverseStep(following, position, rotation, saturation)


def joint_change(solver, jacobian: np.ndarray, error: np.ndarray, q: np.ndarray) -> np.ndarray:
    change, free = np.zeros(len(q)), np.ones(len(q), dtype=bool)
    for _ in range(len(q)):
        change = np.zeros(len(q))
        change[free] = least_squares(jacobian[:, free], error - jacobian @ change, (solver.posture - q)[free])
        beyond = free & ((q + change < solver.lower) | (q + change > solver.upper))
        if not beyond.any():
            return change
        at_limit = beyond & ((q <= solver.lower + 1e-9) | (q >= solver.upper - 1e-9))
        if not at_limit.any():
            return solver._to_nearest_limit(q, change)
        free &= ~at_limit
    return change


def least_squares(jacobian: np.ndarray, error: np.ndarray, to_posture: np.ndarray) -> np.ndarray:
    squares, basis = np.linalg.eigh(jacobian @ jacobian.T)
    singular = np.sqrt(np.maximum(squares, 0.0))
    fading = np.maximum(0.0, 1.0 - singular / ik.SINGULAR_VALUE)
    damping = (ik.DAMPING * fading) ** 2 + ik.ERROR_DAMPING * float(error @ error) + ik.BASE_DAMPING**2
    gains = 1.0 / (singular**2 + damping)
    inverse = (jacobian.T @ basis) * gains @ basis.T
    change = inverse @ error
    if jacobian.shape[1] > 6:
        null = ik.POSTURE_GAIN * to_posture
        change = change + null - inverse @ (jacobian @ null)
    return change


def reach(joint: motion_limiter._Joint, state, j: float, dt: float) -> float:
    p, v, a = joint.step(*state, j, dt)
    return p + stop_way(v, a, joint.a, joint.j) + joint.soft_v * v + joint.soft_a * a


def stop_samples(limiter: motion_limiter.MotionLimiter, motion, count: int) -> np.ndarray:
    states = motion_limiter._states(motion)
    phases = [stop_phases(v, a, j.a, j.j) for j, (_, v, a) in zip(limiter._joints, states, strict=True)]
    longest = max(sum(durations) for _, *durations in phases)
    pairs = list(zip(states, phases, strict=True))
    return np.array(
        [
            [state_along(*state, stop, longest * k / count)[0] for state, stop in pairs]
            for k in range(1, count + 1)
        ]
    )


def line_quaternion(path: ToolPath, share: float) -> np.ndarray:
    angle = np.arccos(min(1.0, float(path._from_q @ path._to_q)))
    if angle < 1e-6:
        return np.array(path._to_q)
    start, end = np.sin((1.0 - share) * angle), np.sin(share * angle)
    return (start * path._from_q + end * path._to_q) / np.sin(angle)


def matrix_of_quaternion(xyzw) -> np.ndarray:
    q = np.asarray(xyzw, dtype=np.float64)
    x, y, z, w = (q / np.linalg.norm(q, axis=-1, keepdims=True)).tolist()
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


@contextmanager
def plain_formulae() -> Iterator[None]:
    """Let the package compute with the formulae here, and check every motion in full."""
    with ExitStack() as stack:
        for owner, name, plain in (
            (KinematicChain, "frames", frames),
            (KinematicChain, "jacobian_of", jacobian_of),
            (ik.InverseKinematics, "step", step),
            (ik, "rotation_error", rotation_error),
            (motion_limiter._Joint, "_reach", reach),
            (motion_limiter.MotionLimiter, "stop_samples", stop_samples),
            (ToolPath, "_line_quaternion", line_quaternion),
            (tool_path, "transform_quaternion_to_matrix", matrix_of_quaternion),
            (CheckedRoom, "contains", lambda room, points: False),
        ):
            stack.enter_context(patch.object(owner, name, plain))
        yield
