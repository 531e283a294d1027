"""Every rotation convention encodes and decodes the same rotation; what is no rotation is refused."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_ros.errors import InvalidValueError
from openvla_ros.values.geometry import transform_rotvec_to_matrix
from openvla_ros.values.rotation_numbers import (
    ROTATION_NAMES,
    RotationConvention,
    rotation_from_numbers,
    rotation_to_numbers,
)

CONVENTIONS = [name for name in get_args(RotationConvention) if name != "none"]
vectors = st.tuples(*[st.floats(-3.5, 3.5)] * 3).map(np.array)


@pytest.mark.parametrize("convention", CONVENTIONS)
@settings(max_examples=60, deadline=None)
@given(vector=vectors)
def test_a_rotation_comes_back(convention, vector):
    rotation = transform_rotvec_to_matrix(vector)
    numbers = rotation_to_numbers(rotation, convention)
    assert numbers.shape == (len(ROTATION_NAMES[convention]),)
    # Near gimbal lock, and near half a turn, angles resolve a rotation to about the root of the rounding.
    np.testing.assert_allclose(rotation_from_numbers(numbers, convention), rotation, atol=1e-7)


@pytest.mark.parametrize("convention", ["matrix", "quaternion_xyzw", "rotation_6d"])
@settings(max_examples=40, deadline=None)
@given(vector=vectors, seed=st.integers(0, 2**31))
def test_what_a_network_predicts_nearly_becomes_a_rotation_near_it(convention, vector, seed):
    numbers = rotation_to_numbers(transform_rotvec_to_matrix(vector), convention)
    noisy = numbers + np.random.default_rng(seed).uniform(-0.02, 0.02, len(numbers))
    rotation = rotation_from_numbers(noisy, convention)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) > 0
    np.testing.assert_allclose(rotation, transform_rotvec_to_matrix(vector), atol=0.15)


def test_the_columns_of_6d_are_made_orthonormal_as_by_zhou():
    first, second = np.array([2.0, 0.0, 0.0]), np.array([5.0, 3.0, 0.0])
    np.testing.assert_allclose(rotation_from_numbers([*first, *second], "rotation_6d"), np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    ("convention", "numbers", "words"),
    [
        ("quaternion_xyzw", [0, 0, 0, 0], "a quaternion has length 1, this one 0.000"),
        ("quaternion_xyzw", [0, 0, 0, 2], "this one 2.000"),
        ("matrix", np.diag([1, 1, -1]).ravel(), "it is a reflection"),
        ("matrix", np.zeros(9), "singular values"),
        ("rotation_6d", [0, 0, 0, 0, 1, 0], "a column has length 0.000"),
        ("rotation_6d", [0, 1, 0, 0, -1, 0], "its columns are parallel"),
        ("rotation_6d", [0, 1, 0], r"shape \(3,\); it must be \(6,\)"),
        ("euler_xyz", [0, np.nan, 0], r"\[1\] is nan"),
        ("none", [], "without a convention"),
    ],
)
def test_what_is_no_rotation_is_refused(convention, numbers, words):
    with pytest.raises(InvalidValueError, match=words):
        rotation_from_numbers(numbers, convention)
