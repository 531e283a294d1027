"""Messages and values turn into each other without loss, and wrong messages are refused with the reason."""

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.action_spaces import SPACES, Speaker, in_space

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import load_profile
from openvla_ros.robot.safety.chunk import ChunkChecks
from openvla_ros.ros import messages
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.geometry import Pose
from openvla_ros.values.verdict import Reason

PROFILE = load_profile("sim_widowx")
SPACE = PROFILE.space()
FRAME = "wx250s/base_link"


def chunk(steps: int = 3, confident: bool = True) -> ActionChunk:
    values = np.random.default_rng(0).uniform(-0.04, 0.04, (steps, 7))
    extra = (
        {"probability": np.full((steps, 7), 0.9), "entropy": np.full((steps, 7), 0.1)} if confident else {}
    )
    return ActionChunk(values, 1_700_000_000_123_456_789, SPACE, **extra)


@pytest.mark.parametrize("confident", [True, False])
def test_chunk_round_trip_is_exact(confident):
    sent = chunk(confident=confident)
    back = messages.from_chunk_message(messages.to_chunk_message(sent, FRAME), SPACE, FRAME)
    np.testing.assert_array_equal(back.actions, sent.actions)
    assert back.observation_stamp_ns == sent.observation_stamp_ns
    if confident:
        np.testing.assert_array_equal(back.probability, sent.probability)
        np.testing.assert_array_equal(back.entropy, sent.entropy)
    else:
        assert back.probability is None
        assert back.entropy is None


def test_chunk_times_are_one_step_apart():
    points = messages.to_chunk_message(chunk(), FRAME).points
    assert [messages.from_duration(p.time_from_start) for p in points] == pytest.approx([0.2, 0.4, 0.6])


def wrong_frame(m):
    m.header.frame_id = "tool"


def wrong_name(m):
    m.joint_names = ["q", *m.joint_names[1:]]


def short_row(m):
    m.points[1].positions = [0.0]


def not_finite(m):
    m.points[0].positions = [float("nan"), *m.points[0].positions[1:]]


def unknown_extra(m):
    m.joint_names = [*m.joint_names, "speed"]
    for point in m.points:
        point.positions = [*point.positions, 1.0]


def no_points(m):
    m.points = []


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (wrong_frame, "frame is 'tool'"),
        (wrong_name, "dimensions are"),
        (short_row, "values for 21 names"),
        (not_finite, "nan; it must be finite"),
        (unknown_extra, "speed"),
        (no_points, "have no values"),
    ],
)
def test_wrong_chunks_are_refused_with_the_reason(spoil, expected):
    message = messages.to_chunk_message(chunk(), FRAME)
    spoil(message)
    with pytest.raises(InvalidValueError, match=expected):
        messages.from_chunk_message(message, SPACE, FRAME)


@given(st.integers(min_value=0, max_value=2**31 * 10**9 - 1))
def test_stamps_round_trip(stamp_ns):
    assert messages.from_stamp(messages.to_stamp(stamp_ns)) == stamp_ns


def test_pose_round_trip():
    pose = Pose.from_euler([0.1, -0.2, 0.3], [0.3, -1.2, 2.0])
    back = messages.from_pose(messages.to_pose(pose, 0, "base"))
    np.testing.assert_allclose(back.matrix, pose.matrix, atol=1e-12)


def test_image_message_holds_the_pixels():
    image = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    message = messages.to_image(image, 5, "camera")
    assert (message.height, message.width, message.step, message.encoding) == (5, 7, 21, "rgb8")
    np.testing.assert_array_equal(np.frombuffer(message.data, np.uint8).reshape(5, 7, 3), image)


def test_joint_values_name_what_is_missing():
    state = messages.JointState(name=["b", "a"], position=[2.0, 1.0])
    np.testing.assert_array_equal(messages.joint_values(state, ["a", "b"]), [1.0, 2.0])
    with pytest.raises(InvalidValueError, match=r"lacks \['c'\]; it has \['b', 'a'\]"):
        messages.joint_values(state, ["a", "c"])
    with pytest.raises(InvalidValueError, match="0 values of velocity for 2 names"):
        messages.joint_values(state, ["a"], "velocity")


def test_joint_values_refuse_a_joint_that_is_named_twice():
    state = messages.JointState(name=["a", "b", "b"], position=[1.0, 2.0, 3.0])
    np.testing.assert_array_equal(messages.joint_values(state, ["a"]), [1.0])
    with pytest.raises(InvalidValueError, match=r"contains \['b'\] twice"):
        messages.joint_values(state, ["a", "b"])


@pytest.mark.parametrize(
    ("names", "positions"),
    [
        (["a"], []),
        (["a", "b"], [1.0]),
        (["b"], [1.0]),
        (["a", "a"], [1.0, 1.0]),
        (["a"], [math.nan]),
        ([], []),
    ],
)
def test_a_position_that_is_not_told_is_none(names, positions):
    assert messages.joint_position(messages.JointState(name=names, position=positions), "a") is None


def test_a_joints_position_is_found_by_its_name():
    state = messages.JointState(name=["b", "a"], position=[math.nan, 1.5])
    assert messages.joint_position(state, "a") == 1.5


def point(*positions):
    return messages.JointTrajectoryPoint(
        positions=positions, time_from_start=messages.to_duration(SPACE.step_s)
    )


@pytest.mark.parametrize(
    ("names", "points"),
    [
        ([], []),
        ([], [point()]),
        (SPACE.names, []),
        (SPACE.names, [point(*[0.0] * 6)]),
        (SPACE.names, [point(*[0.0] * 7), point(0.0)]),
        (SPACE.names[:-1], [point(*[0.0] * 6)]),
        ([f"name_{i}" for i in range(20_000)], [point(*[0.0] * 20_000)]),
        (["x"] * 7, []),
        ([messages.PROBABILITY + name for name in SPACE.names], [point(*[0.0] * 7)]),
    ],
)
def test_a_chunk_without_the_robots_numbers_fails_the_check_of_the_width(names, points):
    message = messages.JointTrajectory(joint_names=list(names), points=points)
    began = time.monotonic()
    verdict = ChunkChecks(PROFILE).check(messages.to_received_chunk(message, SPACE), now_ns=0)
    assert verdict.reason is Reason.WIDTH
    assert time.monotonic() - began < 0.5  # 3.6 s where each name was looked for in all of them
    assert len(verdict.detail) < 300


def test_a_refusal_quotes_no_more_of_a_name_than_fits_in_a_line():
    message = messages.JointTrajectory(joint_names=["n" * 30_000] * 7, points=[point(*[0.0] * 7)])
    message.header.frame_id = "f" * 30_000
    verdict = ChunkChecks(PROFILE).check(messages.to_received_chunk(message, SPACE), now_ns=0)
    assert verdict.reason is Reason.SPACE
    assert len(verdict.detail) < 1000


@pytest.mark.parametrize(("kind", "rotation"), SPACES)
def test_a_chunk_of_every_kind_of_action_arrives_as_it_was_sent(kind, rotation):
    profile = in_space(PROFILE, kind, rotation)
    space, neutral = profile.space(), np.array(profile.arm.neutral)
    values = Speaker(profile).walk(neutral + np.linspace(0, 0.02, 4)[:, None])
    sent = ActionChunk(values, 10**12, space)
    message = messages.to_chunk_message(sent, profile.action_frame_id())
    back = messages.from_chunk_message(message, space, profile.action_frame_id())
    np.testing.assert_array_equal(back.actions, sent.actions)
    received = messages.to_received_chunk(message, space)
    assert ChunkChecks(profile).check(received, now_ns=10**12).commands
    if (kind, rotation) != ("tool_delta", "euler_xyz"):
        verdict = ChunkChecks(PROFILE).check(messages.to_received_chunk(message, SPACE), now_ns=10**12)
        assert verdict.commands == (kind == "tool_delta")
