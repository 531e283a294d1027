"""What is shown of a robot's messages: the values that they hold, or in words why they cannot be shown."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from support.fake_recording import (
    PROFILE,
    START,
    STORE,
    TYPES,
    chunk_message,
    header,
    image,
    image_message,
    make,
    pose_message,
    state_message,
    verdict_message,
)

from openvla_ros.data.bags import cdr
from openvla_ros.data.bags.message_definition import message_definition
from openvla_ros.preprocessing.image_encoding import decode_compressed
from openvla_ros.profile import load_profile
from openvla_ros.values.geometry import Pose
from openvla_ros.viewing import shown
from openvla_ros.viewing.message_view import ARM_COMMAND, GRIPPER_COMMAND, MessageView
from openvla_ros.viewing.robot_figure import RobotFigure
from openvla_ros.viewing.trail import LENGTH_S, Trail

MS = 1_000_000
LATER = 7 * MS  # from a message's stamp to its reception
KINDS = {*TYPES.values(), "diagnostic_msgs/msg/DiagnosticArray", "std_msgs/msg/Float64MultiArray"}
DEFINITIONS = {kind: message_definition(kind) for kind in KINDS}
JOINTS = np.array(PROFILE.arm.neutral)


@pytest.fixture(scope="module")
def figure():
    return RobotFigure.of(PROFILE)


@pytest.fixture
def view(figure):
    return MessageView(PROFILE, DEFINITIONS, figure)


def see(view, role, message, received=START + LATER, kind=""):
    """Everything that is shown of one message, by path."""
    kind = kind or TYPES.get(role, "trajectory_msgs/msg/JointTrajectory")
    data = bytes(STORE.serialize_cdr(message, kind))
    things = list(view.show(role, kind, data, received))
    assert len({thing.path for thing in things}) == len(things)
    return {thing.path: thing for thing in things}


def trajectory(names, rows, first_ms=0):
    duration = STORE.types["builtin_interfaces/msg/Duration"]
    empty = np.zeros(0)
    points = [
        make(
            "trajectory_msgs/msg/JointTrajectoryPoint", positions=np.array(row), velocities=empty,
            accelerations=empty, effort=empty, time_from_start=duration(0, (first_ms + 10 * i) * MS),
        )
        for i, row in enumerate(rows)
    ]  # fmt: skip
    kind = "trajectory_msgs/msg/JointTrajectory"
    return make(kind, header=header(START), joint_names=list(names), points=points)


def test_a_joint_state_moves_joints_gripper_tool_and_every_link(view, figure):
    found = see(view, "joint_states", state_message(START, np.array([*JOINTS, 0.026])))
    moment = shown.Moment(START, START + LATER)
    joints, gripper = found["joints/measured"], found["gripper/measured"]
    assert joints.names == PROFILE.arm.joints
    assert np.array_equal(joints.values, JOINTS)
    assert gripper.values == pytest.approx([0.5])
    assert {thing.moment for thing in found.values()} == {moment}
    assert np.allclose(found["tool/measured"].pose.matrix, figure.chain.forward(JOINTS).matrix)
    links = found["arm"].poses
    assert set(links) == set(figure.covers.shapes)
    assert np.allclose(links["ee_gripper_link"].matrix, found["tool/measured"].pose.matrix)
    fingers = [links[name].position for name in ("left_finger_link", "right_finger_link")]
    assert np.linalg.norm(fingers[0] - fingers[1]) == pytest.approx(2 * 0.026)  # one mimics the other


def test_the_links_are_placed_25_times_a_second_and_the_joints_every_time(view):
    state = np.array([*JOINTS, 0.03])
    seen = [see(view, "joint_states", state_message(START + 10 * i * MS, state)) for i in range(100)]
    assert all("joints/measured" in found for found in seen)
    assert sum("arm" in found for found in seen) == 25


def test_commands_are_what_is_due_now_and_where_the_gripper_goes(view):
    ahead = trajectory(PROFILE.arm.joints[::-1], [JOINTS[::-1], JOINTS[::-1] + 0.1], first_ms=20)
    (joints,) = see(view, ARM_COMMAND, ahead).values()
    assert (joints.path, joints.moment.stamp_ns) == ("joints/commanded", START + 20 * MS)
    assert np.array_equal(joints.values, JOINTS)
    (gripper,) = see(view, GRIPPER_COMMAND, trajectory(["left_finger"], [[0.02], [0.037]])).values()
    assert (gripper.path, gripper.values) == ("gripper/commanded", pytest.approx([1.0]))
    layout = make("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
    plain = make("std_msgs/msg/Float64MultiArray", layout=layout, data=JOINTS)
    (joints,) = see(view, ARM_COMMAND, plain, kind="std_msgs/msg/Float64MultiArray").values()
    assert joints.moment.stamp_ns == START + LATER  # it has no stamp of its own
    assert np.array_equal(joints.values, JOINTS)


def test_a_chunk_leads_from_the_commanded_tool_and_tells_how_sure_the_model_is(view):
    start = Pose(np.array([0.3, 0.0, 0.2]), np.eye(3))
    see(view, "controller/target_pose", pose_message(START, start))
    message = chunk_message(START, np.array([[0.01, 0, 0, 0, 0, 0, 1.0], [0, 0.02, 0, 0, 0, 0, 0.0]]))
    names = PROFILE.space().names
    message.joint_names.extend(f"probability/{name}" for name in names)
    for i, point in enumerate(message.points):
        point.positions = np.concatenate([point.positions, np.full(7, 0.9 - 0.1 * i)])
    found = see(view, "policy/action_chunk", message)
    assert found["action/policy"].names == found["probability/policy"].names == names
    assert np.array_equal(found["action/policy"].values, [0.01, 0, 0, 0, 0, 0, 1.0])
    assert np.array_equal(found["probability/policy"].values, np.full(7, 0.9))
    assert found["chunk/policy"].values.shape == (2, 14)
    path = [[0.3, 0.0, 0.2], [0.31, 0.0, 0.2], [0.31, 0.02, 0.2]]
    assert np.allclose(found["chunk_path/policy"].points, path)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"outcome": "command", "reason": "ok"}, "command: ok"),
        ({"outcome": "hold", "reason": "table", "detail": "3 mm"}, "hold: table (3 mm)"),
        (
            {"outcome": "hold", "reason": "stale", "kind": "refusal", "source": "policy"},
            "refused policy chunk; hold: stale",
        ),
        (
            {"outcome": "hold", "reason": "owner", "kind": "refusal", "source": "teleoperation"},
            "refused a person's chunk; hold: owner",
        ),
    ],
)
def test_a_verdict_is_shown_in_its_own_words(view, values, text):
    found = see(view, "controller/verdict", verdict_message(state="executing", owner="policy", **values))
    assert found["log/verdict"].text == text
    if "kind" not in values:
        assert found["status"].text == f"executing, owner policy; {text}"


def test_the_instruction_in_force_is_the_policy_s_if_there_is_one(view):
    def say(role, words):
        kind = TYPES["instruction"]
        return see(view, role, make(kind, data=words), kind=kind)

    assert say("recorder/instruction", "lift the cube")["instruction"].text == "lift the cube"
    assert say("policy/instruction", "")["instruction"].text == ""
    found = say("instruction", "push the cube")  # told, and not yet taken up
    assert found["log/instruction"].text == "instruction: push the cube"
    assert "instruction" not in found
    assert say("policy/instruction", "push the cube")["instruction"].text == "push the cube"


def test_diagnostics_are_told_when_their_level_changes_and_rates_are_plotted(view):
    def report(level, message):
        status = make(
            "diagnostic_msgs/msg/DiagnosticStatus", level=level, name="camera: primary", message=message,
            hardware_id="", values=[make("diagnostic_msgs/msg/KeyValue", key="rate_hz", value="9.5")],
        )  # fmt: skip
        array = "diagnostic_msgs/msg/DiagnosticArray"
        return see(view, "/diagnostics", make(array, header=header(START), status=[status]), kind=array)

    assert "log/diagnostics" not in report(0, "9.5 Hz")
    assert report(1, "slow")["log/diagnostics"].level == "warning"
    assert "log/diagnostics" not in report(1, "slower")
    assert report(0, "9.5 Hz")["log/diagnostics"].text == "camera: primary: 9.5 Hz"
    assert report(0, "9.5 Hz")["rate/camera_primary"].values == [9.5]


def test_a_rate_that_is_no_number_ends_nothing(view):
    pair = make("diagnostic_msgs/msg/KeyValue", key="rate_hz", value="fast")
    status = make(
        "diagnostic_msgs/msg/DiagnosticStatus", level=0, name="a", message="", hardware_id="", values=[pair]
    )
    array = "diagnostic_msgs/msg/DiagnosticArray"
    (problem,) = see(
        view, "/diagnostics", make(array, header=header(START), status=[status]), kind=array
    ).values()
    assert "'fast'" in problem.text


def test_images_are_passed_on_as_they_are_or_encoded(view):
    pixels = image(np.random.default_rng(0))
    data = bytes(STORE.serialize_cdr(image_message(START, pixels), cdr.IMAGE))
    (raw,) = view.show("camera/primary/image_raw", cdr.IMAGE, data, START)
    assert np.abs(decode_compressed("jpeg", raw.data).astype(int) - pixels).mean() < 12
    stored = cdr.compress_image(data, 90)
    (jpeg,) = view.show("camera/primary/image_raw", cdr.COMPRESSED_IMAGE, stored, START)
    assert jpeg.data == bytes(cdr.parse_compressed_image(stored)[1])
    assert (jpeg.path, jpeg.format, jpeg.moment.stamp_ns) == ("camera/primary", "jpeg", START)


def test_a_camera_that_hangs_upside_down_is_shown_upright(figure):
    camera = replace(PROFILE.cameras[0], rotate_deg=180)
    view = MessageView(replace(PROFILE, cameras=(camera,)), DEFINITIONS, figure)
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16] = 255
    data = cdr.compress_image(bytes(STORE.serialize_cdr(image_message(START, pixels), cdr.IMAGE)), 90)
    (found,) = view.show("camera/primary/image_raw", cdr.COMPRESSED_IMAGE, data, START)
    turned = decode_compressed("jpeg", found.data)
    assert turned[:12].max() < 20
    assert turned[20:].min() > 235


@pytest.mark.parametrize(
    ("role", "message", "said"),
    [
        ("joint_states", state_message(START, np.array([*JOINTS, np.nan])), "left_finger is at nan"),
        (ARM_COMMAND, trajectory(["elbow"], [[0.0]]), "positions for ['elbow']"),
        ("controller/verdict", verdict_message(outcome="hold", reason="tired"), "not a verdict"),
        ("policy/action_chunk", trajectory(["x"], [[0.0]]), "a chunk of 1 steps with the dimensions ['x']"),
    ],
)
def test_what_cannot_be_shown_is_a_problem_in_words_once_a_second(view, role, message, said):
    (problem,) = see(view, role, message).values()
    assert (problem.path, problem.level) == ("log/problems", "warning")
    assert said in problem.text
    assert problem.text.startswith(f"{role}: ")
    assert not see(view, role, message, START + 900 * MS)
    assert see(view, role, message, START + 1100 * MS)
    (cut,) = MessageView(PROFILE, DEFINITIONS, None).show(
        role, TYPES.get(role, TYPES["policy/action_chunk"]), b"\0\1\0\0", START
    )
    assert cut.path == "log/problems"


def test_other_joints_and_other_topics_are_not_shown(view):
    other = state_message(START, np.zeros(7))
    other.name = [f"wheel_{i}" for i in range(7)]
    assert not see(view, "joint_states", other)
    assert not see(view, "somebody/elses", other, kind=TYPES["joint_states"])


def test_a_robot_without_a_readable_urdf_shows_the_reported_tool():
    view = MessageView(load_profile("sim_widowx"), DEFINITIONS, None)
    found = see(view, "joint_states", state_message(START, np.array([*JOINTS, 0.03])))
    assert set(found) == {"joints/measured", "gripper/measured"}
    pose = Pose(np.array([0.3, 0.1, 0.2]), np.eye(3))
    found = see(
        view, "controller/current_pose", pose_message(START, pose), kind=TYPES["controller/target_pose"]
    )
    assert np.allclose(found["tool/measured"].pose.matrix, pose.matrix)


def test_a_trail_is_as_long_as_it_may_be_and_starts_anew_with_the_clock():
    trail, lines = Trail(), []
    for i in range(2000):  # 20 s
        points = trail.add(START + i * 10 * MS, np.array([i, 0.0, 0.0]))
        if points is not None:
            lines.append(points)
    assert 90 < len(lines) < 101  # five a second
    assert np.ptp(lines[-1][:, 0]) <= 100 * LENGTH_S
    assert np.ptp(lines[-1][:, 0]) > 95 * LENGTH_S
    assert all(a[0] < b[0] for a, b in pairwise(lines[-1]))
    anew = [trail.add(START + i * 10 * MS, np.zeros(3)) for i in range(30)]
    assert [points.max() for points in anew if points is not None] == [0.0, 0.0]
