"""The frames of a robot against those of its profile: names, and where the tool is."""

import json
from dataclasses import replace

import numpy as np
import pytest

from openvla_ros.bringup.supervisor import child_environment
from openvla_ros.profile import RobotProfile, load_profile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.frame_tree import FrameTree
from openvla_ros.values.geometry import Pose

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from support import foreign_messages
from support.child_process import python_child
from support.python_process import run_openvla, start_python

from openvla_ros.programs.frame_check import check_frames

WIDOWX = load_profile("widowx")
Q = np.array([0.3, -0.5, 0.4, 0.2, 1.0, -0.4])


def tree_of(profile: RobotProfile, q=Q, camera: Pose | None = None) -> FrameTree:
    """Return the frames as the profile's own URDF has them, each in the base, and the camera's."""
    tree, arm = FrameTree(), profile.arm
    base = arm.frame_prefix + arm.base_link
    for link, pose in KinematicChain.from_profile(arm).link_poses(q).items():
        if link != arm.base_link:
            tree.put(base, arm.frame_prefix + link, pose)
    if camera is not None:
        tree.put("world", base, Pose.from_euler([1.0, 0.0, 0.0], [0.0, 0.0, 0.5]))
        tree.put("world", "camera_link", Pose.from_euler([0.0, 1.0, 0.5], [0.0, 0.3, 0.0]))
        tree.put("camera_link", profile.cameras[0].frame_id, camera)
    return tree


def by_level(found) -> dict[str, list]:
    levels: dict[str, list] = {}
    for finding in found:
        levels.setdefault(finding.level, []).append(finding)
    return levels


def test_poses_are_composed_along_the_tree_whichever_way():
    rng = np.random.default_rng(0)
    a, b, c = (Pose.from_euler(rng.normal(size=3), rng.normal(size=3)) for _ in range(3))
    tree = FrameTree()
    tree.put("root", "a", a)
    tree.put("a", "b", b)
    tree.put("root", "c", c)
    np.testing.assert_allclose(tree.pose("root", "b").matrix, a.matrix @ b.matrix, atol=1e-12)
    np.testing.assert_allclose(
        tree.pose("b", "c").matrix, np.linalg.inv(a.matrix @ b.matrix) @ c.matrix, atol=1e-12
    )
    np.testing.assert_allclose(tree.pose("b", "b").matrix, np.eye(4), atol=1e-12)
    tree.put("root", "a", c)  # the newest counts
    np.testing.assert_allclose(tree.pose("root", "b").matrix, c.matrix @ b.matrix, atol=1e-12)


def test_frames_of_two_trees_unknown_ones_and_loops_have_no_pose():
    tree = FrameTree()
    tree.put("one", "a", Pose.identity())
    tree.put("two", "b", Pose.identity())
    assert tree.pose("a", "b") is None
    assert tree.pose("a", "nothing") is None
    tree.put("a", "one", Pose.identity())
    assert tree.pose("one", "a") is None


def test_a_robot_s_own_frames_are_all_right():
    levels = by_level(check_frames(WIDOWX, tree_of(WIDOWX, camera=Pose.identity()), Q, Q))
    assert set(levels) == {"ok"}
    messages = " ".join(f.message for f in levels["ok"])
    assert "0.0 mm" in messages
    assert "camera_color_optical_frame" in messages
    assert "from wx250s/base_link" in messages


def test_frames_that_are_not_there_are_named_beside_those_that_are():
    wrong = replace(WIDOWX, arm=replace(WIDOWX.arm, frame_prefix="arm/"))
    levels = by_level(check_frames(wrong, tree_of(WIDOWX), Q, Q))
    messages = [f.message for f in levels["warn"]]
    assert set(levels) == {"warn"}
    assert len(messages) == 3
    assert "'arm/base_link' (arm.base_link) is not in tf" in messages[0]
    assert "wx250s/base_link" in messages[0]
    assert "'arm/ee_gripper_link'" in messages[1]
    assert "camera_color_optical_frame" in messages[2]
    assert all(f.fix for f in levels["warn"])


def test_a_tool_that_is_elsewhere_is_an_error_unless_the_arm_moves():
    other = replace(WIDOWX, arm=replace(WIDOWX.arm, tool_link="ee_arm_link"))
    tree = tree_of(WIDOWX)
    tool = tree.pose("wx250s/base_link", "wx250s/ee_arm_link")
    tree.put("wx250s/base_link", "wx250s/ee_arm_link", tool @ Pose.from_euler([0.01, 0, 0], [0, 0, 0]))
    (error,) = by_level(check_frames(other, tree, Q, Q))["error"]
    assert "10.0 mm" in error.message
    assert "arm.tool_link" in error.fix
    moving = by_level(check_frames(other, tree, Q - 0.1, Q))
    assert "moving" in moving["not checked"][0].message
    assert "error" not in moving
    assert "no joint states" in by_level(check_frames(other, tree, None, None))["not checked"][0].message


@pytest.mark.ros
@pytest.mark.timeout(900)  # the first run builds message packages
@pytest.mark.parametrize(("off_m", "level"), [(0.0, "ok"), (0.02, "error")])
def test_check_reads_the_running_robot_s_tf(ros_domain, off_m, level):
    env = foreign_messages.environment("interfaces_tf")
    env["ROS_DOMAIN_ID"] = str(ros_domain)
    with python_child("fake_tf_process.py", "sim_widowx", str(off_m), env=env) as robot:
        robot.expect(lambda e: "ready" in e, 60)
        done = run_openvla("check", "sim_widowx", "--seconds", "3", "--json", environment=env)
    found = [f for f in json.loads(done.stdout)["findings"] if "tf" in f["message"].replace(",", " ").split()]
    assert [f["level"] for f in found if f["subject"] == "frames"] == [level], found
    assert [f["level"] for f in found if f["subject"] == "camera primary"] == ["ok"], found


@pytest.mark.ros
@pytest.mark.timeout(900)  # the first run builds message packages
def test_the_simulation_publishes_the_frames_of_its_arm_and_its_camera(ros_domain):
    pytest.importorskip("mujoco", reason="needs the simulation (the extra [sim])")
    env = foreign_messages.environment("interfaces_tf")
    env["ROS_DOMAIN_ID"] = str(ros_domain)
    program = ["-m", "openvla_ros.nodes", "simulation_node", "--ros-args", "-p", "draw_cameras:=false"]
    simulation = start_python(program, child_environment(env, {}))
    try:
        assert any("task" in line for line in simulation.stdout)
        done = run_openvla("check", "sim_widowx", "--seconds", "4", "--json", environment=env)
    finally:
        simulation.terminate()
        simulation.stdout.read()
        simulation.stdout.close()
        simulation.wait(60)
    findings = json.loads(done.stdout)["findings"]
    (tool,) = (f for f in findings if f["subject"] == "frames")
    assert tool["level"] == "ok", tool
    (camera,) = (f for f in findings if f["subject"] == "camera primary" and "is in tf" in f["message"])
    assert "m from wx250s/base_link" in camera["message"]
    assert simulation.returncode == 0
