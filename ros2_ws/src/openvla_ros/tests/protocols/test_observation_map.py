"""Observation maps: what is written is what is read, and whatever does not fit is named."""

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_ros.errors import InvalidValueError, PolicyError, ProfileError
from openvla_ros.profile import load_profile
from openvla_ros.protocols.observation_map import ObservationMap, available_maps, load_observation_map
from openvla_ros.protocols.state_vectors import FIELD_OF, STATE_PARTS, part_from_numbers
from openvla_ros.values.geometry import Pose
from openvla_ros.values.observation import Observation

PROFILE = load_profile("sim_widowx")
IMAGE = np.full((4, 4, 3), 9, np.uint8)
BRIDGE = load_observation_map("bridge", PROFILE)


def observation(seed=0):
    rng = np.random.default_rng(seed)
    pose = Pose.from_euler(rng.uniform(-0.4, 0.4, 3), rng.uniform(-1.5, 1.5, 3))
    return Observation(5, {"primary": IMAGE}, "lift", rng.normal(size=6), pose, float(rng.uniform()))


@given(st.integers(0, 2**32 - 1), st.permutations(STATE_PARTS))
@settings(deadline=None)
def test_every_part_of_a_state_survives_in_every_order(seed, order):
    parts = []
    for part in order:  # one of each field
        if FIELD_OF[part] not in [FIELD_OF[chosen] for chosen in parts]:
            parts.append(part)
    keys = ObservationMap({"cam": "primary"}, {"state": tuple(parts)})
    before = observation(seed)
    after = keys.to_observation(keys.to_message(before, PROFILE), PROFILE, 5)
    np.testing.assert_allclose(after.joint_positions, before.joint_positions, atol=1e-12)
    np.testing.assert_allclose(after.pose.matrix, before.pose.matrix, atol=1e-9)
    assert after.gripper == pytest.approx(before.gripper, abs=1e-12)
    assert after.instruction == "lift"
    np.testing.assert_array_equal(after.images["primary"], IMAGE)


def test_bridge_measures_angles_from_the_tool_straight_down():
    down = Observation(
        5, {"primary": IMAGE}, "x", None, Pose.from_euler([0.3, 0, 0.2], [0, np.pi / 2, 0]), 1.0
    )
    np.testing.assert_allclose(
        BRIDGE.to_message(down, PROFILE)["observation/state"], [0.3, 0, 0.2, 0, 0, 0, 1], atol=1e-9
    )


def test_what_is_not_sent_is_left_out():
    seen = BRIDGE.to_observation({"observation/image": IMAGE, "prompt": "lift"}, PROFILE, 5)
    assert (seen.pose, seen.gripper, seen.joint_positions, seen.stamp_ns) == (None, None, None, 5)


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ({"image": IMAGE}, "unknown key 'image'; the observation map has observation/image, observation"),
        ({"observation/image": IMAGE}, "'prompt' is None"),
        ({"observation/image": IMAGE, "prompt": b"lift"}, "it must be text"),
        ({"prompt": "lift"}, "no image; expected observation/image"),
        ({"observation/image": 5, "prompt": "x"}, "observation/image is 5"),
        ({"observation/image": IMAGE, "prompt": "x", "observation/state": np.zeros(8)},
         r"has 8 numbers; the observation map says pose_euler \(6\), gripper_open \(1\)"),
        ({"observation/image": IMAGE, "prompt": "x", "observation/state": [np.nan] * 7}, "be finite"),
        ({"observation/image": IMAGE, "prompt": "x", "observation/state": "text"}, "cannot be read"),
        ({"observation/image": IMAGE, "prompt": "x", "observation/state": {"a": 1}}, "cannot be read"),
        ({"observation/image": IMAGE, "prompt": "x", "observation/state": [2.0] * 7}, "gripper opening"),
        ({"observation/image": IMAGE, "prompt": ""}, "instruction"),
    ],
)  # fmt: skip
def test_a_message_that_does_not_fit_is_refused_by_name(message, wrong):
    with pytest.raises(InvalidValueError, match=wrong):
        BRIDGE.to_observation(message, PROFILE, 5)


def test_an_observation_that_lacks_what_the_server_is_sent_is_an_error():
    bare = Observation(5, {"primary": IMAGE}, "lift")
    with pytest.raises(PolicyError, match="'pose_euler' needs pose"):
        BRIDGE.to_message(bare, PROFILE)
    with pytest.raises(PolicyError, match="needs camera 'primary'; the observation has wrist"):
        BRIDGE.to_message(Observation(5, {"wrist": IMAGE}, "lift"), PROFILE)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("images: {}", "images"),
        ("images: {a: primary, b: primary}", "camera 'primary' stands under several keys"),
        ("images: {prompt: primary}", "the key 'prompt' stands for several things"),
        ("images: {a: primary}\nstate: {s: [gripper_open, gripper_closed]}", "gripper is given by several"),
        ("images: {a: primary}\nstate: {s: [speed]}", "joints"),
        ("images: {a: moon}", "camera 'moon'; robot sim_widowx has primary"),
        ("pictures: {a: primary}", "unknown key"),
        ("[", "not valid YAML"),
        ("5", "observation map"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(tmp_path, text, wrong):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=wrong) as error:
        load_observation_map(path, PROFILE)
    assert str(path) in str(error.value)


def test_the_shipped_maps_are_listed_and_read(tmp_path):
    assert available_maps() == ["bridge", "droid"]
    with pytest.raises(ProfileError, match="the maps are bridge, droid"):
        load_observation_map("aloha", PROFILE)
    with pytest.raises(ProfileError, match="camera 'wrist'"):
        load_observation_map("droid", PROFILE)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"images": {"cam": "primary"}, "instruction": "task"}))
    assert load_observation_map(path, PROFILE).keys == ("cam", "task")


@pytest.mark.parametrize("length", [0.0, 0.5, 2.0])
def test_numbers_that_are_no_quaternion_are_not_made_one(length):
    numbers = np.array([0.3, 0.0, 0.2, 0.0, 0.0, 0.0, length])
    with pytest.raises(InvalidValueError, match=f"a quaternion has length 1, this one {length:.3f}"):
        part_from_numbers("pose_quaternion", numbers, PROFILE)
