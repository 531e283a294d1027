"""Converts a delta action to the next commanded tool pose, and back.

Each delta composes on the previous commanded target, not on the measured pose, as the recorded
actions of BridgeData V2 do (widowx_envs: Trans(p) Delta Trans(-p) target): the rotation is about
the tool point, so translation and rotation do not mix. The action space defines the axes and the
convention.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from openvla_ros.errors import InvalidValueError
from openvla_ros.values.action import ActionSpace
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import (
    Pose,
    transform_euler_to_matrix,
    transform_matrix_to_euler,
    transform_matrix_to_rotvec,
    transform_rotvec_to_matrix,
)


def compose(target: Pose, action: ArrayLike, space: ActionSpace) -> Pose:
    """Return the target after ``action`` (D,), whose first six numbers are a delta in ``space``."""
    space.check_kind("tool_delta", "composing on the previous target")
    delta = np.asarray(action, dtype=np.float64)[:6]
    turn = _rotation(delta[3:], space)
    if space.frame == "base":
        return Pose(target.position + delta[:3], orthonormal(turn @ target.rotation))
    return Pose(target.position + target.rotation @ delta[:3], orthonormal(target.rotation @ turn))


def delta_between(before: Pose, after: Pose, space: ActionSpace) -> Float:
    """Return the delta (6,) in ``space`` that ``compose`` turns into ``after``; its inverse."""
    space.check_kind("tool_delta", "the difference of two tool poses")
    if space.frame == "base":
        translation = after.position - before.position
        turn = after.rotation @ before.rotation.T
    else:
        translation = before.rotation.T @ (after.position - before.position)
        turn = before.rotation.T @ after.rotation
    euler = space.rotation == "euler_xyz"
    angles = transform_matrix_to_euler(turn) if euler else transform_matrix_to_rotvec(turn)
    return np.concatenate([translation, angles])


def orthonormal(rotation: Float) -> Float:
    """Return the rotation matrix nearest to ``rotation`` (3, 3), so that products do not drift."""
    # One Newton step of the polar decomposition: exact to the square of the drift, which is 1e-16.
    nearest: Float = rotation @ (1.5 * np.eye(3) - 0.5 * rotation.T @ rotation)
    return nearest


def _rotation(angles: Float, space: ActionSpace) -> Float:
    match space.rotation:
        case "euler_xyz":
            return transform_euler_to_matrix(angles)
        case "rotation_vector":
            return transform_rotvec_to_matrix(angles)
        case _:
            raise InvalidValueError(f"deltas have no rotation convention {space.rotation!r}")
