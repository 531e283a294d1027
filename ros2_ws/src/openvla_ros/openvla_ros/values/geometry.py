"""Rotations and poses: numpy only, metres and radians, right-handed (REP-103).

Rotation matrices are (3, 3) float64 and map coordinates in the moved frame to the fixed one.
``euler_xyz`` angles are roll, pitch, yaw about the fixed x, y, z axes: R = Rz(yaw) Ry(pitch)
Rx(roll), as in URDF and BridgeData V2. Quaternions are x, y, z, w as in ROS messages. Batches are
allowed wherever a docstring says ``(..., 3)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from openvla_ros.errors import InvalidValueError
from openvla_ros.values.arrays import Float, float_array


def transform_euler_to_matrix(euler_xyz: ArrayLike) -> Float:
    """Return the rotation matrices (..., 3, 3) of fixed-axis angles (..., 3) in radians."""
    angles = np.asarray(euler_xyz, dtype=np.float64)
    (sr, sp, sy), (cr, cp, cy) = np.moveaxis(np.sin(angles), -1, 0), np.moveaxis(np.cos(angles), -1, 0)
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def transform_matrix_to_euler(rotation: ArrayLike) -> Float:
    """Return fixed-axis roll, pitch, yaw (..., 3) in radians, pitch within ±π/2.

    At gimbal lock (|pitch| = π/2) roll is 0 and yaw carries the whole rotation.
    """
    r = np.asarray(rotation, dtype=np.float64)
    cos_pitch = np.hypot(r[..., 0, 0], r[..., 1, 0])
    pitch = np.arctan2(-r[..., 2, 0], cos_pitch)
    locked = cos_pitch < 1e-9
    roll = np.where(locked, 0.0, np.arctan2(r[..., 2, 1], r[..., 2, 2]))
    yaw = np.where(locked, np.arctan2(-r[..., 0, 1], r[..., 1, 1]), np.arctan2(r[..., 1, 0], r[..., 0, 0]))
    return np.stack([roll, pitch, yaw], axis=-1)


def skew(vector: ArrayLike) -> Float:
    """Return the cross-product matrices (..., 3, 3) of vectors (..., 3)."""
    v = np.asarray(vector, dtype=np.float64)
    out = np.zeros((*v.shape, 3))
    out[..., 0, 1], out[..., 0, 2], out[..., 1, 2] = -v[..., 2], v[..., 1], -v[..., 0]
    antisymmetric: Float = out - np.swapaxes(out, -1, -2)
    return antisymmetric


def transform_rotvec_to_matrix(rotation_vector: ArrayLike) -> Float:
    """Return exp of rotation vectors (..., 3) in radians as matrices (..., 3, 3) (Rodrigues)."""
    v = np.asarray(rotation_vector, dtype=np.float64)
    angle = np.linalg.norm(v, axis=-1)[..., None, None]
    small = angle < 1e-8
    safe = np.where(small, 1.0, angle)
    k = skew(v)
    a = np.where(small, 1.0 - angle**2 / 6.0, np.sin(safe) / safe)
    b = np.where(small, 0.5 - angle**2 / 24.0, (1.0 - np.cos(safe)) / safe**2)
    matrix: Float = np.eye(3) + a * k + b * (k @ k)
    return matrix


def transform_matrix_to_rotvec(rotation: ArrayLike) -> Float:
    """Return log of rotation matrices (..., 3, 3) as rotation vectors (..., 3), angle in [0, π]."""
    q = transform_matrix_to_quaternion(rotation)
    q = np.where(q[..., 3:] < 0.0, -q, q)
    sine = np.linalg.norm(q[..., :3], axis=-1, keepdims=True)
    angle = 2.0 * np.arctan2(sine, q[..., 3:])
    scale = np.where(sine < 1e-9, 2.0, angle / np.where(sine < 1e-9, 1.0, sine))
    vector: Float = q[..., :3] * scale
    return vector


def transform_quaternion_to_matrix(xyzw: ArrayLike) -> Float:
    """Return the rotation matrices (..., 3, 3) of quaternions (..., 4) x, y, z, w of non-zero length."""
    q = np.asarray(xyzw, dtype=np.float64)
    if q.ndim == 1:  # as np.linalg.norm does it, which takes longer to get there
        norm = np.sqrt(np.add.reduce(q * q, keepdims=True))
    else:
        norm = np.linalg.norm(q, axis=-1, keepdims=True)
    if not (norm > 1e-9).all():
        raise InvalidValueError(f"quaternion {q.tolist()} has length 0")
    unit = q / norm
    # One quaternion's parts as Python's own numbers: the same arithmetic, several times as fast.
    x, y, z, w = unit.tolist() if q.ndim == 1 else np.moveaxis(unit, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    if q.ndim == 1:
        return np.array(rows)
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def transform_matrix_to_quaternion(rotation: ArrayLike) -> Float:
    """Return unit quaternions (..., 4) x, y, z, w with w >= 0 or the largest part positive.

    Shepperd's method: the largest of the four squared parts is the divisor.
    """
    r = np.asarray(rotation, dtype=np.float64)
    if r.ndim == 2:
        return _quaternion_of_one(*r.tolist())
    xx, yy, zz = r[..., 0, 0], r[..., 1, 1], r[..., 2, 2]
    squares = np.stack([1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz, 1 + xx + yy + zz], axis=-1)
    s01, s02, s12 = r[..., 0, 1] + r[..., 1, 0], r[..., 0, 2] + r[..., 2, 0], r[..., 1, 2] + r[..., 2, 1]
    d0, d1, d2 = r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]
    rows = np.stack(
        [
            np.stack([squares[..., 0], s01, s02, d0], axis=-1),
            np.stack([s01, squares[..., 1], s12, d1], axis=-1),
            np.stack([s02, s12, squares[..., 2], d2], axis=-1),
            np.stack([d0, d1, d2, squares[..., 3]], axis=-1),
        ],
        axis=-2,
    )
    best = np.argmax(squares, axis=-1)
    q = np.take_along_axis(rows, best[..., None, None], axis=-2)[..., 0, :]
    unit: Float = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return unit


def _quaternion_of_one(x: list[float], y: list[float], z: list[float]) -> Float:
    """Return the quaternion of the matrix with these rows: as above, ten times as fast for one."""
    xx, yy, zz = x[0], y[1], z[2]
    squares = [1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz, 1 + xx + yy + zz]
    best = squares.index(max(squares))
    match best:
        case 0:
            q = [squares[0], x[1] + y[0], x[2] + z[0], z[1] - y[2]]
        case 1:
            q = [x[1] + y[0], squares[1], y[2] + z[1], x[2] - z[0]]
        case 2:
            q = [x[2] + z[0], y[2] + z[1], squares[2], y[0] - x[1]]
        case _:
            q = [z[1] - y[2], x[2] - z[0], y[0] - x[1], squares[3]]
    norm = math.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
    return np.array([part / norm for part in q])


def _is_rotation(
    a: float, b: float, c: float, d: float, e: float, f: float, g: float, h: float, i: float
) -> bool:
    """Return whether the rows (a, b, c), (d, e, f), (g, h, i) are R with R Rᵀ = 1 and det R > 0.

    In plain numbers: numpy takes ten times as long for nine of them, and a pose is made at every step.
    """
    errors = (
        a * a + b * b + c * c - 1.0,
        d * d + e * e + f * f - 1.0,
        g * g + h * h + i * i - 1.0,
        a * d + b * e + c * f,
        a * g + b * h + c * i,
        d * g + e * h + f * i,
    )
    determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    return max(map(abs, errors)) <= 1e-6 and determinant > 0.0


@dataclass(frozen=True, eq=False)
class Pose:
    """A rigid transform: the pose of one frame in another."""

    position: Float  # (3,) metres
    rotation: Float  # (3, 3) proper rotation matrix

    def __post_init__(self) -> None:
        object.__setattr__(self, "position", float_array("pose position", self.position, (3,)))
        rotation = float_array("pose rotation", self.rotation, (3, 3))
        if not _is_rotation(*rotation.ravel().tolist()):
            raise InvalidValueError(f"pose rotation {rotation.tolist()} is not a rotation matrix")
        object.__setattr__(self, "rotation", rotation)

    @classmethod
    def identity(cls) -> Pose:
        """Return the identity transform."""
        return cls(np.zeros(3), np.eye(3))

    @classmethod
    def from_matrix(cls, matrix: ArrayLike) -> Pose:
        """Return the pose of a homogeneous transform.

        Args:
            matrix: (4, 4) [[R, p], [0, 1]], p in metres.

        Raises:
            InvalidValueError: R is not a proper rotation matrix, or the shape is wrong.
        """
        m = float_array("pose matrix", matrix, (4, 4))
        return cls(m[:3, 3], m[:3, :3])

    @classmethod
    def from_quaternion(cls, position: ArrayLike, xyzw: ArrayLike) -> Pose:
        """Return the pose with a quaternion's rotation.

        Args:
            position: (3,) metres.
            xyzw: (4,) quaternion in the order of geometry_msgs; any length but 0.

        Raises:
            InvalidValueError: The quaternion is 0, or a shape is wrong.
        """
        return cls(
            np.asarray(position), transform_quaternion_to_matrix(float_array("quaternion", xyzw, (4,)))
        )

    @classmethod
    def from_euler(cls, position: ArrayLike, euler_xyz: ArrayLike) -> Pose:
        """Return the pose with the rotation R = Rz(yaw) Ry(pitch) Rx(roll).

        Args:
            position: (3,) metres.
            euler_xyz: (3,) roll, pitch, yaw about the fixed axes, radians.

        Raises:
            InvalidValueError: A shape is wrong.
        """
        return cls(np.asarray(position), transform_euler_to_matrix(float_array("angles", euler_xyz, (3,))))

    @property
    def quaternion(self) -> Float:
        """The rotation as a unit quaternion (4,) x, y, z, w."""
        return transform_matrix_to_quaternion(self.rotation)

    @property
    def euler_xyz(self) -> Float:
        """The rotation as fixed-axis roll, pitch, yaw (3,) in radians."""
        return transform_matrix_to_euler(self.rotation)

    @property
    def matrix(self) -> Float:
        """The homogeneous transform (4, 4)."""
        m = np.eye(4)
        m[:3, :3], m[:3, 3] = self.rotation, self.position
        return m

    def __matmul__(self, other: Pose) -> Pose:
        """Compose: return the pose of ``other``'s frame in this pose's fixed frame."""
        return Pose(self.position + self.rotation @ other.position, self.rotation @ other.rotation)

    def inverse(self) -> Pose:
        """Invert: return the pose of the fixed frame in this one."""
        return Pose(-self.rotation.T @ self.position, self.rotation.T)
