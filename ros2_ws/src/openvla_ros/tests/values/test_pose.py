"""A pose takes proper rotations and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_ros.errors import InvalidValueError
from openvla_ros.values.geometry import Pose


def random_rotation(seed: int) -> np.ndarray:
    """Return an orthogonal matrix with determinant 1: the Q of a random matrix, a column turned if needed."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q[:, 0] *= np.sign(np.linalg.det(q))
    return q


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1))
def test_a_rotation_is_taken_as_it_is(seed):
    rotation = random_rotation(seed)
    np.testing.assert_array_equal(Pose(np.zeros(3), rotation).rotation, rotation)


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(0, 8), st.sampled_from([1e-5, -1e-3, 0.5, 1e100]))
def test_a_changed_number_is_refused(seed, place, change):
    rotation = random_rotation(seed)
    rotation.flat[place] += change
    error = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if error > 2e-6:  # numpy's own product agrees that it is none
        with pytest.raises(InvalidValueError, match="is not a rotation matrix"):
            Pose(np.zeros(3), rotation)


@pytest.mark.parametrize("axis", range(3))
def test_a_reflection_is_refused(axis):
    mirror = np.eye(3)
    mirror[axis, axis] = -1.0
    with pytest.raises(InvalidValueError, match="is not a rotation matrix"):
        Pose(np.zeros(3), mirror)
