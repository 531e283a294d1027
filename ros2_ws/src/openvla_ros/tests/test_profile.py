"""The profiles that come with the package load, and wrong ones say what is wrong."""

import re
from dataclasses import replace

import pytest
import yaml
from support.action_spaces import SPACES, in_space
from support.shared_data import REPOSITORY

from openvla_ros.driver_profile import ArmBackend, FrankySettings
from openvla_ros.errors import ProfileError
from openvla_ros.profile import available_profiles, dump_profile, load_profile, parse_profile
from openvla_ros.values.action_dimensions import dimension_names


def text_of(name: str) -> str:
    return dump_profile(load_profile(name))


@pytest.mark.parametrize("name", ["sim_widowx", "widowx", "sim_franka", "franka", "franka_droid"])
def test_profiles_load_and_round_trip(name):
    profile = load_profile(name)
    assert profile.name == name
    assert parse_profile(dump_profile(profile), "copy") == profile
    assert profile.space().width == 7


def test_all_profiles_are_shipped():
    assert {"sim_widowx", "widowx", "sim_franka", "franka", "franka_droid"} <= set(available_profiles())


def test_unknown_profile_lists_the_choices():
    with pytest.raises(ProfileError, match="sim_widowx"):
        load_profile("sawyer")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("frame: base", "frame: world", "action_space.frame.*'base' or 'tool'.*'world'"),
        ("max_age_s: 0.5", "max_age_s: -1.0", "cameras.0.max_age_s.*greater than 0.*-1.0"),
        ("physics_hz: 500.0", "fysics_hz: 500.0", "simulation.fysics_hz.*unknown key"),
        ("description:", "# description:", "description: this key is missing"),
        ("rotate_deg: 0", "rotate_deg: 45", "rotate_deg.*0, 90, 180 or 270.*45"),
    ],
)
def test_errors_name_file_key_value_and_choices(old, new, expected):
    text = text_of("sim_widowx")
    assert old in text
    with pytest.raises(ProfileError, match=f"(?s)bad.yaml: .*{expected}"):
        parse_profile(text.replace(old, new, 1), "bad.yaml")


def edited(path: str, value: object) -> str:
    data = yaml.safe_load(text_of("sim_widowx"))
    *folders, key = path.split(".")
    part = data
    for folder in folders:
        part = part[int(folder)] if folder.isdigit() else part[folder]
    part[key] = value
    return yaml.safe_dump(data)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("limits.joint_lower", [-178.0, -106.0, -121.0, -178.0, -98.0, -178.0]),  # degrees
        ("limits.joint_velocity", [134.0] * 6),
        ("limits.joint_acceleration", [286.0] * 6),
        ("limits.joint_jerk", [80000.0] * 6),
        ("limits.tilt_rad", 68.0),
        ("limits.tracking_error_rad", 20.0),
        ("limits.workspace_upper", [450.0, 250.0, 300.0]),  # millimetres
        ("limits.workspace_tolerance_m", 10.0),
        ("limits.table_height_m", -20.0),
        ("limits.table_clearance_m", 5.0),
        ("gripper.open_m", 37.0),
        ("cameras.0.max_age_s", 300.0),  # milliseconds
        ("state.max_age_s", 200.0),
        ("control.chunk_max_age_s", 600.0),
        ("control.hold_after_s", 500.0),
        ("control.dead_man_s", 300.0),
        ("control.blend_s", 200.0),
        ("control.leash_m", 30.0),
        ("control.reanchor_error_m", 50.0),
        ("control.reanchor_error_rad", 20.0),
        ("gripper_backend.speed_m_s", 100.0),
        ("arm.state_rotation_offset", [0.0, 90.0, 0.0]),
    ],
)
def test_values_that_can_only_be_in_another_unit_are_refused(key, value):
    with pytest.raises(ProfileError, match=rf"bad.yaml: {key}.*(less|greater) than or equal to"):
        parse_profile(edited(key, value), "bad.yaml")


def test_action_bounds_in_another_unit_are_refused():
    for values, words in (
        ([-50.0, -50.0, -50.0, -0.25, -0.25, -0.25, 0.0], "-50 for x; one step is in m and at most 1"),
        ([-0.05, -0.05, -0.05, -14.0, -14.0, -14.0, 0.0], "-14 for roll; one step is in rad and at most"),
    ):
        with pytest.raises(ProfileError, match=words):
            parse_profile(edited("action_space.lower", values), "bad.yaml")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  open_m: 0.037", "  open_m: 0.015", "open_m and closed_m are both 0.015"),
        ("  - -1.8\n", "  - -1.9\n", r"arm.park puts shoulder at -1.9; its limits are -1.86 .. 1.96"),
        ("  - elbow\n", "  - waist\n", "arm.joints .* must be unique"),
        ("effort: null", "effort: [1.0]", "effort has 1 values for 6 joints"),
    ],
)
def test_values_that_contradict_each_other_are_named(old, new, expected):
    text = text_of("sim_widowx")
    assert old in text
    with pytest.raises(ProfileError, match=f"bad.yaml: .*{expected}"):
        parse_profile(text.replace(old, new, 1), "bad.yaml")


@pytest.mark.parametrize(
    ("source", "device", "serial"),
    [
        ("{kind: usb, device: /dev/video2}", "/dev/video2", ""),
        ("{kind: realsense, serial: '829212070352'}", "", "829212070352"),
        ("{kind: topic}", "", ""),
    ],
)
def test_a_profile_says_where_a_camera_comes_from(source, device, serial):
    text = text_of("sim_widowx").replace("  source: null\n", f"  source: {source}\n", 1)
    camera = parse_profile(text, "good.yaml").cameras[0]
    assert (camera.origin.device, camera.origin.serial) == (device, serial)
    assert camera.origin.kind == source[7:].split(",")[0].rstrip("}")
    assert parse_profile(dump_profile(parse_profile(text, "one")), "two").cameras[0] == camera


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{kind: webcam}", "cameras.0.source.kind.*'topic', 'usb', 'realsense'.*'webcam'"),
        ("{kind: usb, serial: '12'}", "serial is '12'; a source of kind 'usb' takes device"),
        ("{kind: topic, device: /dev/video0}", "a source of kind 'topic' takes nothing else"),
        ("{kind: video}", "'video' needs a path"),
    ],
)
def test_a_source_that_contradicts_itself_is_named(source, expected):
    text = text_of("sim_widowx").replace("  source: null\n", f"  source: {source}\n", 1)
    with pytest.raises(ProfileError, match=f"(?s)bad.yaml: .*{expected}"):
        parse_profile(text, "bad.yaml")


def test_a_profile_of_0_1_0_means_the_topic_s_own_driver_or_this_package_s_usb_camera():
    for name in ("widowx", "franka", "franka_droid"):
        old = text_of(name).replace("  source: null\n", "")
        assert "source" not in old
        assert [c.origin.kind for c in parse_profile(old, "old.yaml").cameras] == ["topic"]
    ours = parse_profile(text_of("sim_widowx").replace("  source: null\n", ""), "old.yaml")
    assert [(c.origin.kind, c.origin.device) for c in ours.cameras] == [("usb", "")]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("names", ("y", "x", "z", "roll", "pitch", "yaw", "gripper")), r"action_space.names are \['y', 'x'"),
        (("names", ("gripper", "x", "y", "z", "roll", "pitch", "yaw")), r"names are \['gripper', 'x'"),
        (("names", ("x", "y", "z", "roll", "pitch", "yaw")), r"action_space.names are"),
        (("units", ("mm", "mm", "mm", "rad", "rad", "rad", "1")), r"action_space.units are \['mm'"),
        (("units", ("0.01 m", "0.01 m", "0.01 m", "rad", "rad", "rad", "1")), r"units are \['0.01 m'"),
        (
            ("units", ("m", "m", "m", "deg", "deg", "deg", "1")),
            r"\['m', 'm', 'm', 'rad', 'rad', 'rad', '1'\]",
        ),
        (("rate_hz", 60.0), "control.rate_hz is 100; it must be at least twice action_space.rate_hz, .* 60"),
    ],
)
def test_an_action_space_that_the_controller_does_not_carry_out_is_refused(change, expected):
    values = yaml.safe_load(text_of("sim_widowx"))
    key, value = change
    values["action_space"][key] = value if key == "rate_hz" else list(value)
    if key == "names" and len(value) == 6:
        for other in ("units", "lower", "upper"):
            values["action_space"][other] = values["action_space"][other][:6]
    with pytest.raises(ProfileError, match=expected):
        parse_profile(yaml.safe_dump(values), "bad.yaml")


@pytest.mark.parametrize("rate_hz", [1.0, 19.0, 1001.0])
def test_a_control_rate_that_cannot_be_kept_is_refused(rate_hz):
    values = yaml.safe_load(text_of("sim_widowx"))
    values["control"]["rate_hz"] = rate_hz
    with pytest.raises(ProfileError, match=r"control.rate_hz.*(20|1000)"):
        parse_profile(yaml.safe_dump(values), "bad.yaml")


@pytest.mark.parametrize("key", ["wrench_n", "wrench_nm"])
def test_a_limit_on_a_wrench_that_nobody_reports_is_refused(key):
    text = text_of("sim_widowx").replace(f"  {key}: null\n", f"  {key}: 10.0\n", 1)
    assert f"{key}: 10.0" in text
    with pytest.raises(ProfileError, match=f"limits.{key} is 10 but state.wrench_topic is not set"):
        parse_profile(text, "bad.yaml")


def test_wrong_number_of_joint_limits_is_named():
    text = text_of("sim_widowx").replace("  joint_jerk:\n  - 80.0\n", "  joint_jerk:\n", 1)
    with pytest.raises(ProfileError, match="joint_jerk has 5 values for 6 joints"):
        parse_profile(text, "bad.yaml")


@pytest.mark.parametrize(("kind", "rotation"), SPACES)
def test_a_profile_of_every_kind_of_action_reads_as_written(kind, rotation):
    profile = in_space(load_profile("sim_widowx"), kind, rotation)
    assert parse_profile(dump_profile(profile), "copy") == profile
    assert (profile.space().kind, profile.space().rotation) == (kind, rotation)


def test_the_profile_on_the_page_of_action_spaces_is_one():
    page = (REPOSITORY / "docs" / "action_spaces.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.S)
    values = yaml.safe_load(text_of("sim_widowx")) | yaml.safe_load(block)
    profile = parse_profile(yaml.safe_dump(values), "page.yaml")
    assert profile.action_space.kind == "joint_position"
    rows = set(re.findall(r"`([^`\n]+)`", page))
    for rotation in ("euler_xyz", "rotation_vector", "quaternion_xyzw"):
        assert " ".join(dimension_names("tool_pose", rotation, ())[:-1]) in rows


def test_joints_that_are_called_like_deltas_are_no_joint_targets():
    names = ("x", "y", "z", "roll", "pitch", "yaw")
    base = load_profile("sim_widowx")
    actions = in_space(base, "joint_position", "none").action_space
    with pytest.raises(ValueError, match="a chunk of one would be taken for the other"):
        replace(
            base,
            arm=replace(base.arm, joints=names),
            action_space=replace(actions, names=(*names, "gripper")),
        )


@pytest.mark.parametrize(
    ("kind", "rotation", "changes", "expected"),
    [
        ("joint_position", "none", {"names": 0}, r"names are \['shoulder', 'waist'.*carries out \['waist'"),
        ("joint_delta", "none", {"names": 0}, r"names are \['delta_shoulder'.*carries out \['delta_waist'"),
        ("tool_pose", "quaternion_xyzw", {"names": 3}, r"\['tool_x'.*'tool_qy', 'tool_qx'.*in this order"),
        ("joint_position", "none", {"units": ["deg"] * 6 + ["1"]}, r"units are \['deg'.*\['rad'"),
        ("tool_pose", "rotation_6d", {"units": ["m"] * 3 + ["rad"] * 6 + ["1"]}, r"carries out \['m'.*'1'"),
        ("tool_pose", "matrix", {"frame": "tool"}, "the frame of tool_pose actions is 'tool'"),
        ("tool_pose", "euler_xyz", {"rotation": "none"}, "rotation of tool_pose actions is 'none'"),
        ("tool_pose", "euler_xyz", {"rotation": "matrix"}, "have 13 dimensions"),
        ("tool_pose", "euler_xyz", {"rotation": "rotation_vector"}, r"carries out \['tool_x'.*'tool_rx'"),
        ("joint_position", "none", {"rotation": "matrix"}, "rotation of joint_position actions is 'matrix'"),
        ("joint_position", "none", {"kind": "joint_delta"}, r"carries out \['delta_waist'"),
        (
            "joint_position",
            "none",
            {"kind": "tool_delta", "rotation": "euler_xyz"},
            r"carries out \['x', 'y'",
        ),
        ("joint_position", "none", {"kind": "joints"}, r"action_space.kind.*'joints'"),
        ("joint_position", "none", {"largest_step_rad": None}, "largest_step_rad is missing"),
        ("tool_pose", "matrix", {"largest_step_m": None}, "largest_step_m is missing"),
        ("tool_pose", "matrix", {"largest_step_m": 50.0}, "largest_step_m.*less than or equal to 1"),
        ("joint_position", "none", {"largest_step_m": 0.1}, "largest_step_m is 0.1; joint_position actions"),
        ("joint_delta", "none", {"largest_step_rad": 0.1}, "largest_step_rad is 0.1; joint_delta actions"),
        ("joint_position", "none", {"upper": [9.0] * 6 + [1.0]}, "9 for waist; limits.joint_lower and"),
        ("joint_delta", "none", {"upper": [14.0] * 6 + [1.0]}, "14 for delta_waist; one step is in rad"),
        ("tool_pose", "matrix", {"upper": [300.0] + [1.0] * 12}, "300 for tool_x; a target is in m"),
        ("tool_pose", "matrix", {"upper": [1.0] * 12 + [2.0]}, "2 for gripper"),
    ],
)
def test_an_action_space_of_any_kind_that_is_not_carried_out_is_refused(kind, rotation, changes, expected):
    values = yaml.safe_load(dump_profile(in_space(load_profile("sim_widowx"), kind, rotation)))
    actions = values["action_space"]
    if isinstance(first := changes.get("names"), int):
        names = actions["names"]
        changes = {"names": [*names[:first], names[first + 1], names[first], *names[first + 2 :]]}
    actions.update(changes)
    with pytest.raises(ProfileError, match=expected):
        parse_profile(yaml.safe_dump(values), "bad.yaml")


@pytest.mark.parametrize(
    ("kind", "lookahead_s", "expected"),
    [("joint_trajectory", 0.03, True), ("joint_trajectory", 0.0, False), ("servo_twist", 0.03, False)],
)
def test_only_a_command_that_says_when_it_is_due_may_be_sent_early(kind, lookahead_s, expected):
    backend = replace(load_profile("widowx").arm_backend, kind=kind, lookahead_s=lookahead_s)
    assert backend.takes_times is expected


@pytest.mark.parametrize(("kind", "settings"), [("franky", None), ("forward_position", {})])
def test_settings_of_franky_belong_to_its_kind(kind, settings):
    with pytest.raises(ValueError, match=r"arm_backend.franky is (missing|given)"):
        ArmBackend(kind=kind, topic="setpoints", franky=settings)


@pytest.mark.parametrize("key", ["leash_rad", "rate_hz"])
def test_a_leash_or_a_rate_that_lets_a_franka_run_away_is_refused(key):
    with pytest.raises(ValueError, match=key):
        FrankySettings(**{key: 0.2 if key == "leash_rad" else 50.0})
