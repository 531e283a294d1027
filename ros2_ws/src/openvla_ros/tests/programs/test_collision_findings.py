"""``openvla check`` says what of the arm is watched for collisions, and what is not."""

import dataclasses

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from support.made_urdf import mesh

from openvla_ros.profile import RobotProfile, load_profile
from openvla_ros.programs.check import _description
from openvla_ros.resources import share_path
from openvla_ros.robot.controller import ArmController

SHAPE = '<box size="0.2335 0.153 0.0716"/>'  # of the WidowX's base


def with_urdf(profile: RobotProfile, path) -> RobotProfile:
    return dataclasses.replace(profile, arm=dataclasses.replace(profile.arm, urdf=str(path)))


def findings(profile: RobotProfile) -> list[tuple[str, str]]:
    return [(f.level, f.message) for f in _description(profile) if f.subject == "self-collision"]


def test_a_robot_of_primitives_is_watched_and_what_its_urdf_leaves_out_is_said():
    ((level, message),) = findings(load_profile("widowx"))
    assert level == "ok"
    assert "pairs of links are checked" in message
    assert "without a <collision>: gripper_prop_link" in message


def test_a_mesh_that_cannot_be_read_is_a_warning_and_the_controller_knows_it(tmp_path):
    text = (share_path() / "urdf" / "wx250s.urdf").read_text()
    assert text.count(SHAPE) == 1
    path = tmp_path / "wx250s.urdf"
    path.write_text(
        text.replace(f"<geometry>{SHAPE}</geometry>", mesh("base.stl").split("<collision>")[1][:-12])
    )
    profile = with_urdf(load_profile("widowx"), path)
    (warned, message), (level, _) = findings(profile)
    assert (warned, level) == ("warn", "ok")
    assert message.startswith(
        "base_link is not checked for collisions with the arm or the table: mesh base.stl does not exist"
    )
    assert ArmController(profile).blind_spots.keys() == {"base_link"}
