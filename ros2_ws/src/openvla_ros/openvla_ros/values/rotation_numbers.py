"""A rotation as the numbers that a policy predicts: each convention's encoder and its decoder.

Decoders take what networks predict: numbers that are nearly a rotation are replaced by the nearest one, and
numbers that are none are refused. The continuous 6D representation is that of Zhou et al. 2019
(arXiv 1812.07035): the first two columns of the matrix, made orthonormal by Gram and Schmidt's method.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from openvla_ros.errors import InvalidValueError
from openvla_ros.values.arrays import Float, float_array
from openvla_ros.values.geometry import (
    transform_euler_to_matrix,
    transform_matrix_to_euler,
    transform_matrix_to_quaternion,
    transform_matrix_to_rotvec,
    transform_quaternion_to_matrix,
    transform_rotvec_to_matrix,
)

RotationConvention = Literal[
    "euler_xyz", "rotation_vector", "matrix", "quaternion_xyzw", "rotation_6d", "none"
]
# What the numbers of each convention are called. Matrix elements by row and column, the matrix row by row.
ROTATION_NAMES: dict[RotationConvention, tuple[str, ...]] = {
    "euler_xyz": ("roll", "pitch", "yaw"),
    "rotation_vector": ("rx", "ry", "rz"),
    "matrix": ("r11", "r12", "r13", "r21", "r22", "r23", "r31", "r32", "r33"),
    "quaternion_xyzw": ("qx", "qy", "qz", "qw"),
    "rotation_6d": ("r11", "r21", "r31", "r12", "r22", "r32"),
    "none": (),
}
# How far a quaternion's length, or a matrix's singular value, may be from 1.
SCALE_TOLERANCE = 0.2
# 6D: the columns may have any length above this one, and must not be nearer to parallel than its arcsine.
LEAST_COLUMN = 0.1


def rotation_to_numbers(rotation: ArrayLike, convention: RotationConvention) -> Float:
    """Return a rotation matrix (3, 3) as the numbers (N,) of ``convention``; angles in radians."""
    r = float_array("rotation", rotation, (3, 3))
    match convention:
        case "euler_xyz":
            return transform_matrix_to_euler(r)
        case "rotation_vector":
            return transform_matrix_to_rotvec(r)
        case "matrix":
            return r.reshape(9)
        case "quaternion_xyzw":
            return transform_matrix_to_quaternion(r)
        case "rotation_6d":
            return r[:, :2].T.reshape(6)
        case "none":
            raise InvalidValueError("a rotation cannot be written without a convention")


def rotation_from_numbers(numbers: ArrayLike, convention: RotationConvention) -> Float:
    """Return the rotation matrix (3, 3) nearest to the ``numbers`` (N,) of ``convention``.

    The inverse of ``rotation_to_numbers``. Raises ``InvalidValueError`` if they are far from any rotation.
    """
    n = float_array(f"rotation numbers ({convention})", numbers, (len(ROTATION_NAMES[convention]),))
    match convention:
        case "euler_xyz":
            return transform_euler_to_matrix(n)
        case "rotation_vector":
            return transform_rotvec_to_matrix(n)
        case "matrix":
            return _nearest_rotation(n.reshape(3, 3))
        case "quaternion_xyzw":
            if abs(float(np.linalg.norm(n)) - 1.0) > SCALE_TOLERANCE:
                raise _no_rotation(n, f"a quaternion has length 1, this one {np.linalg.norm(n):.3f}")
            return transform_quaternion_to_matrix(n)
        case "rotation_6d":
            return _from_columns(n[:3], n[3:])
        case "none":
            raise InvalidValueError("a rotation cannot be read without a convention")


def _nearest_rotation(matrix: Float) -> Float:
    left, scales, right = np.linalg.svd(matrix)
    if np.abs(scales - 1.0).max() > SCALE_TOLERANCE:
        raise _no_rotation(matrix, f"its singular values are {np.round(scales, 3).tolist()}, not 1")
    if np.linalg.det(matrix) < 0.0:
        raise _no_rotation(matrix, "it is a reflection")
    nearest: Float = left @ right
    return nearest


def _from_columns(first: Float, second: Float) -> Float:
    lengths = float(np.linalg.norm(first)), float(np.linalg.norm(second))
    if min(lengths) < LEAST_COLUMN:
        raise _no_rotation(np.array([first, second]), f"a column has length {min(lengths):.3f}")
    x = first / lengths[0]
    across = second / lengths[1]
    across = across - (x @ across) * x
    sine = float(np.linalg.norm(across))
    if sine < LEAST_COLUMN:
        raise _no_rotation(np.array([first, second]), "its columns are parallel")
    y = across / sine
    return np.stack([x, y, np.cross(x, y)], axis=1)


def _no_rotation(numbers: Float, why: str) -> InvalidValueError:
    return InvalidValueError(f"{np.round(numbers, 4).tolist()} is no rotation: {why}")
