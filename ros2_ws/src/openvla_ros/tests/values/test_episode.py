"""Episodes check themselves, stay lazy, and give the observations that live code makes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.generated_episodes import assert_same_episode, make_episode

from openvla_ros.errors import InvalidValueError
from openvla_ros.values.episode import pose_deltas
from openvla_ros.values.geometry import transform_euler_to_matrix, transform_rotvec_to_matrix


class CountingFrames:
    def __init__(self, count):
        self.count, self.decoded = count, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.decoded.append(index)
        return np.full((4, 4, 3), index, np.uint8)


def test_an_observation_carries_everything_of_its_step():
    episode = make_episode(3)
    seen = episode.observation(2)
    assert seen.stamp_ns == episode.stamps_ns[2]
    assert seen.instruction == episode.instruction
    np.testing.assert_array_equal(seen.images["wrist"], episode.images["wrist"][2])
    np.testing.assert_array_equal(seen.joint_positions, episode.joint_positions[2])
    np.testing.assert_array_equal(seen.pose.matrix, episode.poses[2])
    assert seen.gripper == episode.gripper[2]


def test_steps_run_from_first_to_last():
    steps = list(make_episode(1))
    assert [s.is_first for s in steps] == [True] + [False] * 5
    assert [s.is_last for s in steps] == [False] * 5 + [True]


def test_images_are_decoded_only_when_looked_at():
    frames = CountingFrames(6)
    episode = make_episode(0, images={"primary": frames})
    part = episode.slice(2, 5)
    assert frames.decoded == []
    assert part.observation(1).images["primary"][0, 0, 0] == 3
    assert frames.decoded == [3]
    assert len(part) == 3


def test_arrays_cannot_be_written():
    episode = make_episode(0)
    for name in ("actions", "poses", "gripper", "joint_positions", "stamps_ns"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(episode, name)[0] = 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stamps_ns": np.array([1, 2, 2, 4, 5, 6])}, "stamp of step 2"),
        ({"actions": np.zeros((6, 3))}, r"actions has shape \(6, 3\); it must be \(6, 7\)"),
        ({"gripper": np.full(6, 1.2)}, "gripper spans 1.2"),
        ({"poses": np.zeros((6, 4, 4))}, r"poses\[0\] does not contain a rotation"),
        ({"outcome": "great"}, "'great'; choose from"),
        ({"intervention": np.zeros(5, bool)}, r"must be \(6,\)"),
        ({"images": {"primary": CountingFrames(5)}}, "'primary' has 5 images for 6 steps"),
        ({"rate_hz": 0.0}, "rate is 0.0 Hz"),
        ({"actions": np.full((6, 7), np.nan)}, "must be finite"),
    ],
)
def test_a_wrong_field_is_named(changes, message):
    with pytest.raises(InvalidValueError, match=message):
        make_episode(0, **changes)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    frame=st.sampled_from(["base", "tool"]),
    rotation=st.sampled_from(["euler_xyz", "rotation_vector"]),
)
def test_measured_deltas_compose_to_the_measured_poses(seed, frame, rotation):
    episode = make_episode(seed % 1000, 5)
    space = type(episode.space)(
        **{**{f: getattr(episode.space, f) for f in episode.space.__dataclass_fields__},
           "frame": frame, "rotation": rotation}
    )  # fmt: skip
    deltas = pose_deltas(episode.poses, space)
    for before, after, delta in zip(episode.poses[:-1], episode.poses[1:], deltas, strict=True):
        to_matrix = transform_euler_to_matrix if rotation == "euler_xyz" else transform_rotvec_to_matrix
        turn, move, R = to_matrix(delta[3:]), delta[:3], before[:3, :3]
        position = before[:3, 3] + (move if frame == "base" else R @ move)
        orientation = turn @ R if frame == "base" else R @ turn
        np.testing.assert_allclose(position, after[:3, 3], atol=1e-12)
        np.testing.assert_allclose(orientation, after[:3, :3], atol=1e-9)


def test_commanded_and_measured_actions_can_both_be_had():
    episode = make_episode(4)
    measured = episode.with_measured_actions()
    assert len(measured) == len(episode) - 1
    np.testing.assert_array_equal(measured.actions, episode.measured_deltas())
    np.testing.assert_array_equal(measured.actions[:, 6], episode.actions[:-1, 6])
    assert_same_episode(measured.slice(0, 5), measured)


def test_measured_deltas_need_poses():
    with pytest.raises(InvalidValueError, match="no measured poses"):
        make_episode(0, poses=None).measured_deltas()
