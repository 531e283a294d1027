"""Actions keep their meaning from one space to another; what cannot be converted is refused by name."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from support.action_spaces import SPACES

from openvla_ros.data.episodes.converted_actions import ActionConversion, ActionConverter
from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.profile import load_profile
from openvla_ros.robot.kinematics.action_targets import joint_actions, tool_actions
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.values.action import ROTATIONS
from openvla_ros.values.episode import Episode
from openvla_ros.values.geometry import Pose, transform_euler_to_matrix, transform_quaternion_to_matrix

PAIRS = list(permutations(SPACES, 2))
# The bounds hold for inverse kinematics that ends within 1e-6 m and rad of a pose (it is nearer). Motions
# between two such targets are within twice that, and joints within the tool's error divided by the least
# singular value of the Jacobian, which stays above 0.02 here; three conversions follow each other.
TOOL_TOLERANCE, JOINT_TOLERANCE = 1e-5, 5e-4


def joint_walk(name: str, seed: int, steps: int = 12) -> Episode:
    """A random walk of the joints around the neutral pose, as absolute joint targets one step ahead."""
    profile = load_profile(name)
    rng = np.random.default_rng(seed)
    chain = KinematicChain.from_profile(profile.arm)
    q = np.array(profile.arm.neutral) + np.cumsum(rng.normal(0, 0.02, (steps + 1, len(chain.joints))), axis=0)
    q = np.clip(q, np.array(profile.limits.joint_lower) + 0.05, np.array(profile.limits.joint_upper) - 0.05)
    converter = ActionConverter(profile)
    space = converter.space(ActionConversion(profile, "joint_position"), profile.space())
    return Episode(
        id=f"walk_{seed}",
        instruction="",
        space=space,
        rate_hz=space.rate_hz,
        stamps_ns=10**12 + np.arange(steps) * round(1e9 / space.rate_hz),
        images={},
        actions=np.column_stack([q[1:], rng.integers(0, 2, steps)]),
        joint_positions=q[:-1],
        poses=np.array([chain.forward(joints).matrix for joints in q[:-1]]),
    )


def convert(episode: Episode, name: str, kind: str, rotation: str) -> Episode:
    profile = load_profile(name)
    converter = ActionConverter(profile)
    wanted = ActionConversion(profile, kind, rotation)
    return converter.convert(episode, converter.space(wanted, episode.space))


def tool_targets(episode: Episode, name: str) -> list[Pose]:
    """What each action asks of the tool, told apart from the converter."""
    chain = KinematicChain.from_profile(load_profile(name).arm)
    tool = tool_actions(episode.space)
    target = chain.forward(episode.joint_positions[0]) if tool else episode.joint_positions[0]
    found = []
    for action in episode.actions:
        target = (tool or joint_actions(episode.space)).after(target, action)
        found.append(target if tool else chain.forward(target))
    return found


def assert_same_tool(a: list[Pose], b: list[Pose]) -> None:
    for here, there in zip(a, b, strict=True):
        np.testing.assert_allclose(here.position, there.position, atol=TOOL_TOLERANCE)
        np.testing.assert_allclose(here.rotation, there.rotation, atol=TOOL_TOLERANCE)


@pytest.mark.parametrize("name", ["widowx", "franka"])
@pytest.mark.parametrize(("first", "second"), PAIRS, ids=lambda s: "-".join(s))
def test_each_space_becomes_each_other_and_back(name, first, second):
    walk = joint_walk(name, PAIRS.index((first, second)))
    here = convert(walk, name, *first)
    there = convert(here, name, *second)
    back = convert(there, name, *first)
    wanted = tool_targets(walk, name)
    for episode in (here, there, back):
        assert_same_tool(tool_targets(episode, name), wanted)
        np.testing.assert_array_equal(episode.actions[:, -1], walk.actions[:, -1])
    # With seven joints an arm reaches one pose in many ways: there only the tool has to come back.
    joints = first[0].startswith("joint")
    if name == "widowx" or not joints:
        tolerance = JOINT_TOLERANCE if joints else TOOL_TOLERANCE
        np.testing.assert_allclose(
            np.unwrap(back.actions, axis=0), np.unwrap(here.actions, axis=0), atol=tolerance
        )


def test_the_actions_of_the_same_space_stay_bit_for_bit():
    walk = joint_walk("widowx", 1)
    assert convert(walk, "widowx", "joint_position", "none") is walk


def test_changes_start_from_what_was_measured_after_a_gap():
    walk = joint_walk("widowx", 2)
    stamps = walk.stamps_ns + (np.arange(len(walk)) >= 5) * 10**9
    deltas = convert(replace(walk, stamps_ns=stamps), "widowx", "joint_delta", "none")
    expected = walk.actions[5, :-1] - walk.joint_positions[5]
    np.testing.assert_allclose(deltas.actions[5, :-1], expected, atol=1e-12)
    back = convert(deltas, "widowx", "joint_position", "none")
    np.testing.assert_allclose(back.actions, walk.actions, atol=1e-12)


def test_units_other_than_si_are_scaled():
    walk = convert(joint_walk("widowx", 3), "widowx", "tool_delta", "euler_xyz")
    units = ("0.05 m", "0.05 m", "0.05 m", "0.5 rad", "0.5 rad", "0.5 rad", "1")
    scaled = replace(
        walk,
        space=replace(walk.space, units=units),
        actions=walk.actions / np.array([0.05] * 3 + [0.5] * 3 + [1.0]),
    )
    wanted = convert(walk, "widowx", "tool_pose", "matrix")
    np.testing.assert_allclose(convert(scaled, "widowx", "tool_pose", "matrix").actions, wanted.actions)


def test_a_pose_out_of_reach_is_an_error_that_names_the_step():
    walk = convert(joint_walk("widowx", 4), "widowx", "tool_pose", "rotation_6d")
    actions = walk.actions.copy()
    actions[7, 0] += 2.0
    with pytest.raises(DatasetError, match=r"episode 'walk_4': step 7: tool pose at .* is not reachable"):
        convert(replace(walk, actions=actions), "widowx", "joint_position", "none")


def test_a_pose_that_only_another_branch_reaches_is_an_error_that_names_the_joint():
    walk = convert(joint_walk("widowx", 5), "widowx", "tool_pose", "matrix")
    actions = walk.actions.copy()
    there = KinematicChain.from_profile(load_profile("widowx").arm).forward([1.5, -0.5, 0.5, 0.3, 1.2, 0.2])
    actions[4, :-1] = [*there.position, *there.rotation.reshape(9)]
    with pytest.raises(DatasetError, match=r"step 4: waist would jump by 1\.\d+ rad"):
        convert(replace(walk, actions=actions), "widowx", "joint_position", "none")


def test_numbers_that_are_no_rotation_are_an_error_that_names_the_step():
    walk = convert(joint_walk("widowx", 6), "widowx", "tool_pose", "quaternion_xyzw")
    actions = walk.actions.copy()
    actions[3, 3:7] = 0.1
    with pytest.raises(DatasetError, match=r"step 3: \[0\.1, .* no rotation: a quaternion has length 1"):
        convert(replace(walk, actions=actions), "widowx", "tool_pose", "matrix")


@pytest.mark.parametrize(
    ("changes", "kind", "expected"),
    [
        ({"joint_positions": None}, "joint_delta", "no joint positions that its changes start from"),
        ({"joint_positions": None, "poses": None}, "tool_delta", "neither tool poses nor joint positions"),
        ({"joint_positions": np.zeros((12, 7))}, "tool_pose", "7 joint positions; widowx has 6 joints"),
        (
            {"poses": np.tile(np.eye(4), (12, 1, 1))},
            "tool_pose",
            "step 0: the recorded tool .* off where",
        ),
    ],
)
def test_what_is_missing_or_of_another_robot_is_named(changes, kind, expected):
    walk = replace(joint_walk("widowx", 7), **changes)
    with pytest.raises(DatasetError, match=f"episode 'walk_7': .*{expected}"):
        convert(walk, "widowx", kind, ROTATIONS[kind][0])


def test_joint_actions_of_another_arm_are_refused():
    with pytest.raises(
        DatasetError, match=r"actions are waist, .*; joint_position actions of franka are fr3"
    ):
        convert(joint_walk("widowx", 8), "franka", "tool_pose", "matrix")


@pytest.mark.parametrize("kind", ["joint_position", "joint_delta", "tool_pose"])
def test_joints_in_another_order_or_unit_are_refused(kind):
    walk = joint_walk("widowx", 9)
    names, units = walk.space.names, walk.space.units
    swapped = replace(walk.space, names=(*reversed(names[:-1]), names[-1]))
    degrees = replace(walk.space, units=(*("deg",) * 6, units[-1]))
    for space, expected in (
        (swapped, "actions are wrist_rotate, .* in this order"),
        (degrees, "units of its actions are deg, .* are rad"),
    ):
        with pytest.raises(DatasetError, match=expected):
            convert(replace(walk, space=space), "widowx", kind, ROTATIONS[kind][0])


def test_tool_poses_in_millimetres_are_refused():
    poses = convert(joint_walk("widowx", 10), "widowx", "tool_pose", "matrix")
    space = replace(poses.space, units=("mm", "mm", "mm", *poses.space.units[3:]))
    with pytest.raises(DatasetError, match="units of its actions are mm, mm, mm"):
        convert(replace(poses, space=space), "widowx", "tool_pose", "rotation_6d")


def test_quaternions_along_an_episode_do_not_change_sign():
    turns = [transform_euler_to_matrix([0.4, -0.2, 0.12 * step]) for step in range(60)]  # more than one turn
    poses = [Pose(np.array([0.25, 0.0, 0.2]), rotation) for rotation in turns]
    walk = joint_walk("widowx", 11, steps=60)
    converter, profile = ActionConverter(load_profile("widowx")), load_profile("widowx")
    six = converter.space(ActionConversion(profile, "tool_pose", "rotation_6d"), walk.space)
    speaker = tool_actions(six)
    actions = np.array([np.append(speaker.between(pose, pose), 1.0) for pose in poses])
    done = convert(replace(walk, space=six, actions=actions), "widowx", "tool_pose", "quaternion_xyzw")
    quaternions = done.actions[:, 3:7]
    assert (np.sum(quaternions[:-1] * quaternions[1:], axis=1) > 0.99).all()
    for pose, xyzw in zip(poses, quaternions, strict=True):
        np.testing.assert_allclose(transform_quaternion_to_matrix(xyzw), pose.rotation, atol=1e-9)


def test_a_rotation_that_does_not_fit_the_kind_is_refused():
    with pytest.raises(InvalidValueError, match="rotation 'matrix' does not fit tool_delta actions; choose"):
        ActionConversion(load_profile("widowx"), "tool_delta", "matrix")
