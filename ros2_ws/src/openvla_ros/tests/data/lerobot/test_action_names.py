"""Which names contradict x, y, z, roll, pitch, yaw, gripper, and which say nothing."""

import dataclasses
import re

import pytest

from openvla_ros.data.lerobot.action_names import contradictions
from openvla_ros.profile import load_profile

SPACE = load_profile("franka").space()
MOTION = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


@pytest.mark.parametrize(
    "names",
    [
        MOTION,
        ("delta_x", "delta_y", "delta_z", "delta_rx", "delta_ry", "delta_rz", "gripper"),
        ("eef_pos_x", "eef_pos_y", "eef_pos_z", "eef_rot_x", "eef_rot_y", "eef_rot_z", "gripper_position"),
        ("ee.x", "ee.y", "ee.z", "ee.roll", "ee.pitch", "ee.yaw", "gripper.pos"),
        tuple(f"motor_{i}" for i in range(7)),
        tuple(f"action_{i}" for i in range(7)),
        ("actions",),
        (),
    ],
)
def test_these_say_the_same_or_nothing(names):
    assert contradictions(names, ("motors",), SPACE) == []


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (tuple(f"panda_joint{i}" for i in range(1, 8)), "a joint"),
        (tuple(f"q{i}" for i in range(7)), "a joint"),
        (("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper"), "a joint"),
        (("y", "x", "z", "roll", "pitch", "yaw", "gripper"), "'y' is y.*'x'"),
        (("gripper", "x", "y", "z", "roll", "pitch", "yaw"), "'gripper' is gripper"),
        (("x", "y", "z", "qx", "qy", "qz", "qw"), "a quaternion"),
        (("x", "y", "z", "qx", "qy", "qz", "qw", "gripper"), "a quaternion"),
        (("x.vel", "y.vel", "z.vel", "roll.vel", "pitch.vel", "yaw.vel", "gripper"), "a velocity"),
        (("x", "y", "z", "roll", "pitch", "yaw", "delta_gripper"), "a change of the gripper"),
        (("x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z", "gripper"), "rotation vector x"),
    ],
)
def test_these_contradict(names, said):
    lines = contradictions(names, (), SPACE)
    assert any(re.search(said, line) for line in lines), lines


def test_a_rotation_vector_may_be_named_so():
    space = dataclasses.replace(SPACE, rotation="rotation_vector")
    names = ("x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z", "gripper")
    assert contradictions(names, (), space) == []
