"""A first profile from a URDF: right numbers, the same each time, refused until a person has filled it in."""

import numpy as np
import pytest
import yaml
from support.made_urdf import LIMIT, arm_of_six, joint

from openvla_ros.errors import KinematicsError, ProfileError
from openvla_ros.integrity.placeholders import MARK, placeholder, unfilled
from openvla_ros.profile import load_profile, parse_profile
from openvla_ros.robot.controller import ArmController
from openvla_ros.robot.first_profile import FirstProfile, first_profile
from openvla_ros.robot.kinematics.chain import KinematicChain

BALL = '<collision><geometry><sphere radius="0.05"/></geometry></collision>'
FILLED = {
    "cameras.0.topic": "/camera/image_raw", "cameras.0.width": 640, "cameras.0.height": 480,
    "cameras.0.rate_hz": 30.0, "cameras.0.frame_id": "camera", "arm.park": [0.0] * 6,
    "arm.tool_axis": [0.0, 0.0, 1.0], "gripper.joint": "finger", "gripper.open_m": 0.04,
    "gripper.closed_m": 0.0,
    "state.joint_states_topic": "/joint_states", "state.rate_hz": 100.0,
    "limits.joint_acceleration": [2.0] * 6,
    "limits.joint_jerk": [20.0] * 6, "limits.tilt_rad": 1.2, "limits.table_height_m": None,
    "arm_backend.kind": "joint_trajectory", "arm_backend.topic": "/arm/joint_trajectory",
    "gripper_backend.kind": "gripper_command", "gripper_backend.topic": "/gripper/gripper_cmd",
}  # fmt: skip


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> FirstProfile:
    shapes = {f"link{i}": BALL for i in range(1, 7)} | {"base": BALL}
    finger = joint(
        "finger", "prismatic", "link6", "left", '<limit lower="0" upper="0.04" velocity="1" effort="1"/>'
    )
    return first_profile(str(arm_of_six(tmp_path_factory.mktemp("arm"), shapes, [finger])), tool_link="tool")


def filled(first: FirstProfile, without: str = "") -> str:
    """The profile with every open key filled in, but for one."""
    data = yaml.safe_load(first.text)
    for key, value in FILLED.items():
        if key != without:
            *path, last = key.split(".")
            part = data
            for name in path:
                part = part[int(name) if name.isdigit() else name]
            part[last] = value
    return yaml.safe_dump(data)


def test_it_is_refused_and_names_each_value_that_is_open(first, tmp_path):
    first.write(tmp_path / "arm.yaml")
    with pytest.raises(ProfileError) as caught:
        load_profile(tmp_path / "arm.yaml")
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == list(FILLED)
    assert all(line.startswith(f"{tmp_path / 'arm.yaml'}: ") and MARK in line for line in lines)
    assert [line.split(": ", 1)[0] for line in first.open_keys] == list(FILLED)


@pytest.mark.parametrize("key", list(FILLED))
def test_one_open_value_is_enough_to_refuse_it(first, key):
    with pytest.raises(ProfileError, match=f"^arm.yaml: {key}: {MARK}") as caught:
        parse_profile(filled(first, without=key), "arm.yaml")
    assert len(str(caught.value).splitlines()) == 1


def test_filled_in_it_is_a_profile_that_a_controller_takes(first):
    profile = parse_profile(filled(first), "arm.yaml")
    assert profile.arm.joints == tuple(f"joint{i}" for i in range(1, 7))
    assert (profile.limits.joint_lower, profile.limits.joint_upper) == ((-2.0,) * 6, (2.0,) * 6)
    assert profile.limits.joint_velocity == (1.5,) * 6
    assert ArmController(profile).blind_spots == {}


def test_the_neutral_pose_can_move_any_way_and_is_away_from_every_limit(first):
    profile = parse_profile(filled(first), "arm.yaml")
    chain = KinematicChain.from_profile(profile.arm)
    q = np.array(profile.arm.neutral)
    assert np.all(np.abs(q) < 1.8)
    assert first.reach.clearance_m > 0.03
    smallest = np.linalg.svd(chain.jacobian(q), compute_uv=False).min()
    others = np.random.default_rng(1).uniform(-2, 2, (500, 6))
    typical = [np.linalg.svd(chain.jacobian(other), compute_uv=False).min() for other in others]
    assert smallest > np.median(typical)
    tool = chain.forward(q).position
    assert np.all(tool > profile.limits.workspace_lower)
    assert np.all(tool < profile.limits.workspace_upper)


def test_the_workspace_is_what_the_arm_reaches(first):
    lower, upper = first.reach.lower, first.reach.upper
    # Upright 0.2 + 0.1 + 0.3 + 0.15 + 0.15 + 0.1 + 0.1 m; from the shoulder at 0.3 m it is 0.8 m long.
    assert 1.0 < upper[2] <= 1.1
    assert np.all(np.abs(np.concatenate([lower[:2], upper[:2]])) <= 0.8)
    assert np.all(upper[:2] > 0.6)
    assert 0.0 <= lower[2] < 0.1
    data = yaml.safe_load(first.text)
    assert np.all(np.array(data["limits"]["workspace_lower"]) >= lower)
    assert np.all(np.array(data["limits"]["workspace_upper"]) <= upper)


def test_the_same_urdf_gives_the_same_profile(first):
    again = first_profile(yaml.safe_load(first.text)["arm"]["urdf"], tool_link="tool")
    assert again.text == first.text


def test_it_hints_at_the_gripper_and_says_what_is_not_checked(tmp_path):
    made = first_profile("wx250s.urdf", tool_link="ee_gripper_link")
    assert yaml.safe_load(made.text)["arm"]["urdf"] == "wx250s.urdf"
    (hint,) = (line for line in made.open_keys if line.startswith("gripper.joint"))
    assert "left_finger 0.015 .. 0.037" in hint
    bare = first_profile(str(arm_of_six(tmp_path)), "base", "tool")
    assert bare.blind_spots.keys() == {"every link"}


def test_a_joint_that_turns_without_end_gets_one_turn_and_a_missing_speed_is_open(tmp_path):
    path = arm_of_six(tmp_path)
    text = path.read_text().replace('name="joint1" type="revolute"', 'name="joint1" type="continuous"')
    path.write_text(text.replace('velocity="1.5"', 'velocity="0"', 1))
    made = first_profile(str(path))
    limits = yaml.safe_load(made.text)["limits"]
    assert (limits["joint_lower"][0], limits["joint_upper"][0]) == (-3.1415, 3.1415)
    assert "One turn, for the URDF sets no end: joint1" in made.text
    assert "limits.joint_velocity.0: FILL IN: rad/s of joint1; the URDF gives none" in made.open_keys
    assert limits["joint_velocity"][1:] == [1.5] * 5


def test_where_the_tool_or_the_base_is_not_clear_the_choices_are_named(tmp_path):
    finger = joint("finger", "prismatic", "tool", "left", LIMIT)
    two = arm_of_six(tmp_path, more=[finger, joint("other", "prismatic", "tool", "right", LIMIT)])
    with pytest.raises(KinematicsError, match=r"--tool.*left \(7 joints\), right \(7 joints\)"):
        first_profile(str(two))
    with pytest.raises(KinematicsError, match=r"no link 'nowhere'.*base"):
        first_profile(str(two), base_link="nowhere")
    with pytest.raises(KinematicsError, match="no joint moves between 'link6' and 'tool'"):
        first_profile(str(two), "link6", "tool")
    split = arm_of_six(tmp_path, {"island": ""})
    with pytest.raises(KinematicsError, match=r"2 root links \(base, island\): choose one with --base"):
        first_profile(str(split))


def test_a_file_is_never_overwritten(first, tmp_path):
    (tmp_path / "arm.yaml").write_text("mine")
    with pytest.raises(ProfileError, match="already exists"):
        first.write(tmp_path / "arm.yaml")
    assert (tmp_path / "arm.yaml").read_text() == "mine"
    with pytest.raises(ProfileError, match=r"must end in \.yaml"):
        first.write(tmp_path / "arm.txt")
    with pytest.raises(ProfileError, match="cannot be written: No such file"):
        first.write(tmp_path / "no" / "arm.yaml")


def test_a_placeholder_is_found_wherever_it_stands():
    data = {
        "a": [1, {"b": placeholder("x")}],
        "c": "FILLING IN",
        "d": (placeholder("y"),),
        3: placeholder("z"),
    }
    assert unfilled(data) == ["a.1.b: FILL IN: x", "d.0: FILL IN: y", "3: FILL IN: z"]
