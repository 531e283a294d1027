"""One rotation is converted by the same arithmetic as a batch of them, and a mirrored one is no pose."""

import numpy as np
import pytest

from openvla_ros.errors import InvalidValueError
from openvla_ros.values.geometry import (
    Pose,
    transform_matrix_to_quaternion,
    transform_quaternion_to_matrix,
)


def test_one_rotation_gives_the_same_bits_as_a_batch():
    quaternions = np.random.default_rng(0).normal(size=(500, 4))
    quaternions[::5, 3] = 0.0  # half turns
    matrices = transform_quaternion_to_matrix(quaternions)
    back = transform_matrix_to_quaternion(matrices)
    for one, matrix, quaternion in zip(quaternions, matrices, back, strict=True):
        np.testing.assert_array_equal(transform_quaternion_to_matrix(one), matrix)
        np.testing.assert_array_equal(transform_matrix_to_quaternion(matrix), quaternion)


def test_a_mirrored_rotation_is_refused():
    with pytest.raises(InvalidValueError, match="is not a rotation matrix"):
        Pose(np.zeros(3), np.diag([1.0, 1.0, -1.0]))
