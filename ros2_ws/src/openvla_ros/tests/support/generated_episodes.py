"""Small generated episodes for the tests of datasets."""

from __future__ import annotations

from typing import Any

import numpy as np

from openvla_ros.data.episodes.encoded_images import ArrayFrames, EncodedFrames
from openvla_ros.preprocessing.image_encoding import encode_jpeg
from openvla_ros.profile import load_profile
from openvla_ros.values.episode import Episode
from openvla_ros.values.geometry import transform_euler_to_matrix


def make_episode(
    seed: int = 0, steps: int = 6, *, jpeg: bool = False, size: int = 32, **changes: Any
) -> Episode:
    """A smooth random motion with two cameras, joints, poses and gripper."""
    generator = np.random.default_rng(seed)
    space = load_profile("widowx").space()
    poses = np.tile(np.eye(4), (steps, 1, 1))
    start = np.array([0.3, 0.0, 0.2])
    poses[:, :3, 3] = start + np.cumsum(generator.normal(0, 0.01, (steps, 3)), axis=0)
    angles = np.cumsum(generator.normal(0, 0.05, (steps, 3)), axis=0)
    poses[:, :3, :3] = transform_euler_to_matrix(angles)
    fields: dict[str, Any] = {
        "id": f"episode_{seed:04d}",
        "instruction": f"put the block {seed} on the plate",
        "space": space,
        "rate_hz": space.rate_hz,
        "stamps_ns": 1_700_000_000_000_000_000 + seed * 10**11 + np.arange(steps) * 200_000_000,
        "images": {name: make_frames(generator, steps, size, jpeg) for name in ("primary", "wrist")},
        "actions": np.concatenate(
            [generator.uniform(-0.04, 0.04, (steps, 6)), generator.integers(0, 2, (steps, 1))], axis=1
        ),
        "joint_positions": generator.uniform(-1, 1, (steps, 6)),
        "poses": poses,
        "gripper": generator.uniform(0, 1, steps),
        "intervention": generator.uniform(size=steps) > 0.7,
        "outcome": ("success", "failure", "unknown")[seed % 3],
        "provenance": {"format": "generated", "operator": "test", "software_version": "0"},
    }
    return Episode(**{**fields, **changes})


def make_frames(
    generator: np.random.Generator, steps: int, size: int, jpeg: bool
) -> ArrayFrames | EncodedFrames:
    """A square that wanders over a gradient."""
    y, x = np.mgrid[0:size, 0:size]
    frames = np.zeros((steps, size, size, 3), np.uint8)
    corner = generator.integers(0, size - 8, 2)
    for t in range(steps):
        frames[t] = np.stack([x * 255 // size, y * 255 // size, (x + y + 20 * t) % 256], axis=-1)
        row, column = (corner + t) % (size - 8)
        frames[t, row : row + 8, column : column + 8] = [250, 20, 20]
    return EncodedFrames([encode_jpeg(f, 95) for f in frames], "generated") if jpeg else ArrayFrames(frames)


def assert_same_episode(got: Episode, want: Episode, *, images: bool = True, exact: bool = True) -> None:
    """Compare every number; ``exact=False`` allows float32 storage."""
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 2e-7, "atol": 2e-7}
    assert (got.id, got.instruction, got.outcome, got.rate_hz) == (
        want.id, want.instruction, want.outcome, want.rate_hz,
    )  # fmt: skip
    assert want.space.differences(got.space) == []
    np.testing.assert_array_equal(got.stamps_ns, want.stamps_ns)
    np.testing.assert_array_equal(got.intervention, want.intervention)
    for name in ("actions", "joint_positions", "poses", "gripper"):
        ours, theirs = getattr(got, name), getattr(want, name)
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            np.testing.assert_allclose(ours, theirs, err_msg=name, **tolerance)
    assert set(got.images) == set(want.images)
    if images:
        for camera, frames in want.images.items():
            for index in range(len(want)):
                np.testing.assert_array_equal(got.images[camera][index], frames[index])
