"""An action space knows its kind, and refuses what contradicts it."""

from dataclasses import replace

import numpy as np
import pytest
from support.action_spaces import NEW_SPACES, SPACES, in_space
from support.generated_episodes import make_episode

from openvla_ros.data.bags.resampling import target_steps
from openvla_ros.data.episodes.episode_columns import space_from_json, space_to_json
from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import load_profile
from openvla_ros.protocols.wire import space_from_message, space_to_message
from openvla_ros.training.data.frame_cache import steps_to_learn
from openvla_ros.training.data.selection import Selection
from openvla_ros.values.action_dimensions import dimension_names, dimension_units
from openvla_ros.values.geometry import Pose

PROFILE = load_profile("sim_widowx")


def space_of(kind: str, rotation: str):
    return in_space(PROFILE, kind, rotation).space()


@pytest.mark.parametrize(("kind", "rotation"), SPACES)
def test_names_and_units_have_one_entry_for_each_number(kind, rotation):
    names = dimension_names(kind, rotation, PROFILE.arm.joints)
    assert len(names) == len(dimension_units(kind, rotation, ("rad",) * 6)) == len(set(names))


@pytest.mark.parametrize(("kind", "rotation"), SPACES)
@pytest.mark.parametrize(
    ("to", "back"), [(space_to_json, space_from_json), (space_to_message, space_from_message)]
)
def test_a_space_comes_back_from_files_and_messages(kind, rotation, to, back):
    space = space_of(kind, rotation)
    written = to(space)
    assert ("kind" in written) == (kind != "tool_delta")  # what older versions read stays as it was
    assert back(written).differences(space) == []


def test_a_space_that_was_written_without_its_kind_is_one_of_deltas():
    assert space_from_json(space_to_json(PROFILE.space())).kind == "tool_delta"


def test_a_message_of_another_kind_is_refused():
    message = {**space_to_message(PROFILE.space()), "kind": "joints"}
    with pytest.raises(InvalidValueError, match="kind is 'joints'; it must be one of tool_delta, tool_pose"):
        space_from_message(message)


def test_two_kinds_differ():
    position, delta = space_of("joint_position", "none"), space_of("joint_delta", "none")
    assert "action_space.kind: 'joint_position' here, 'joint_delta' there" in position.differences(delta)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "tool_twist"}, "action kind is 'tool_twist'; it must be one of tool_delta"),
        ({"rotation": "matrix"}, "the rotation of tool_pose actions is|have 13 dimensions"),
        ({"rotation": "none"}, "the rotation of tool_pose actions is 'none'"),
        ({"frame": "tool"}, "the frame of tool_pose actions is 'tool'; it must be 'base'"),
    ],
)
def test_what_contradicts_the_kind_is_refused(changes, words):
    with pytest.raises(InvalidValueError, match=words):
        replace(space_of("tool_pose", "rotation_6d"), **changes)


@pytest.mark.parametrize(("kind", "rotation"), NEW_SPACES)
def test_what_only_deltas_have_is_refused_by_name(kind, rotation):
    space = space_of(kind, rotation)
    with pytest.raises(InvalidValueError, match=f"needs tool_delta actions; these are {kind}"):
        _ = space.si_factors
    rng = np.random.default_rng(0)
    episode = make_episode(0, 4, space=space, actions=rng.uniform(0, 1, (4, space.width)))
    with pytest.raises(InvalidValueError, match="difference of measured poses needs tool_delta"):
        episode.measured_deltas()
    poses = [Pose.from_matrix(matrix) for matrix in episode.poses]
    with pytest.raises(InvalidValueError, match="difference of two tool poses needs tool_delta"):
        target_steps(episode.stamps_ns, poses, episode.gripper, space, np.zeros(4, bool))


@pytest.mark.parametrize("kind", ["joint_position", "tool_pose"])
def test_a_target_that_does_not_change_is_idle(kind):
    space = space_of(kind, "none" if kind == "joint_position" else "rotation_6d")
    values = np.tile(np.linspace(0.1, 0.5, space.width), (5, 1))
    values[:, -1] = 1.0
    values[3:, 1] += 0.02
    episode = make_episode(0, 5, space=space, actions=values, intervention=np.zeros(5, bool))
    # The first step is kept: nothing says that the gripper was so before.
    np.testing.assert_array_equal(steps_to_learn(episode, Selection()), [0, 3])
