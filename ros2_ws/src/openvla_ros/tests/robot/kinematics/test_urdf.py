"""What a URDF may hold, read as its specification says (wiki.ros.org/urdf/XML): each feature by its value."""

import math

import numpy as np
import pytest
from support.made_urdf import LIMIT, arm_of_six, joint, write_urdf

from openvla_ros.errors import KinematicsError
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.urdf import read_urdf
from openvla_ros.values.geometry import transform_euler_to_matrix

TWO_LINKS = '<robot><link name="a"/><link name="b"/>{}</robot>'


def chain_of(folder, joints, base="a", tool=None) -> KinematicChain:
    description = read_urdf(write_urdf(folder, joints))
    return KinematicChain.between(description, base, tool or list(description.links)[-1])


def turn(axis: str, angle: float) -> np.ndarray:
    """The elementary rotation about ``axis``, written out."""
    c, s = math.cos(angle), math.sin(angle)
    pose = np.eye(4)
    pose[:3, :3] = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }[axis]
    return pose


def shift(x: float, y: float, z: float) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, 3] = (x, y, z)
    return pose


def by_differences(chain: KinematicChain, q: np.ndarray, step: float = 1e-6) -> np.ndarray:
    columns = []
    for i in range(len(q)):
        ahead, behind = (chain.frames(q + sign * step * np.eye(len(q))[i])[-1] for sign in (1, -1))
        turned = (ahead[:3, :3] - behind[:3, :3]) / (2 * step) @ chain.frames(q)[-1][:3, :3].T
        spin = [turned[2, 1], turned[0, 2], turned[1, 0]]
        columns.append([*((ahead[:3, 3] - behind[:3, 3]) / (2 * step)), *spin])
    return np.array(columns).T


def test_what_a_fixed_joint_does_not_use_is_not_read(tmp_path):
    # wiki.ros.org/urdf/XML/joint: a fixed joint needs no axis, calibration, dynamics, limits.
    odd = '<origin xyz="0 0 0.5"/><limit effort="x"/><mimic joint="nobody"/>'
    chain = chain_of(
        tmp_path, [joint("j", "revolute", "a", "b"), joint("f", "fixed", "b", "c", odd, "0 0 0")]
    )
    assert chain.joints == ("j",)
    np.testing.assert_allclose(chain.frames([0.3])[-1], turn("z", 0.3) @ shift(0, 0, 0.5), atol=1e-15)


def test_a_moving_joint_needs_an_axis_with_a_direction(tmp_path):
    with pytest.raises(KinematicsError, match=r"joint 'j': axis \[0.0, 0.0, 0.0\] has no direction"):
        chain_of(tmp_path, [joint("j", "revolute", "a", "b", axis="0 0 0")])


def test_an_axis_is_along_x_where_none_stands_there(tmp_path):
    text = joint("j", "revolute", "a", "b").replace('<axis xyz="0 0 1"/>', "")
    np.testing.assert_allclose(chain_of(tmp_path, [text]).frames([0.4])[-1], turn("x", 0.4), atol=1e-15)


def test_nested_origins_multiply(tmp_path):
    joints = [
        joint("f1", "fixed", "a", "b", '<origin xyz="1 2 3" rpy="0.1 0.2 0.3"/>'),
        joint("j1", "revolute", "b", "c", f'<origin xyz="0 0 1" rpy="0 0 1.5"/>{LIMIT}', "0 1 0"),
        joint("f2", "fixed", "c", "d", '<origin rpy="0.4 0 0"/>'),
        joint("f3", "fixed", "d", "e", '<origin xyz="0.5 0 0"/>'),
        joint("j2", "prismatic", "e", "f", LIMIT, "0 0 -2"),
    ]
    chain = chain_of(tmp_path, joints)
    first = shift(1, 2, 3) @ turn("z", 0.3) @ turn("y", 0.2) @ turn("x", 0.1)  # fixed axes: roll, pitch, yaw
    second = shift(0, 0, 1) @ turn("z", 1.5) @ turn("y", 0.7) @ turn("x", 0.4)
    expected = first @ second @ shift(0.5, 0, -0.2)
    q = np.array([0.7, 0.2])
    np.testing.assert_allclose(chain.frames(q)[-1], expected, atol=1e-14)
    np.testing.assert_allclose(chain.jacobian(q), by_differences(chain, q), atol=1e-8)


def test_an_origin_may_be_a_quaternion(tmp_path):
    half = math.sqrt(0.5)  # URDF 1.2: a quarter turn about z
    quarter = f'<origin quat_xyzw="0 0 {half} {half}"/>'
    chain = chain_of(tmp_path, [joint("j", "revolute", "a", "b", quarter + LIMIT, "1 0 0")])
    np.testing.assert_allclose(chain.frames([0.0])[-1], turn("z", math.pi / 2), atol=1e-12)
    both = quarter.replace("/>", ' rpy="0 0 1"/>')
    with pytest.raises(KinematicsError, match="joint 'j': origin has both rpy '0 0 1' and quat_xyzw"):
        chain_of(tmp_path, [joint("j", "revolute", "a", "b", both + LIMIT)])


def test_a_continuous_joint_has_no_ends_whatever_its_limit_says(tmp_path):
    limited = '<limit lower="-1" upper="1" velocity="2" effort="1"/>'
    chain = chain_of(
        tmp_path, [joint("j", "continuous", "a", "b", limited), joint("k", "continuous", "b", "c", "")]
    )
    assert (chain.lower.tolist(), chain.upper.tolist()) == ([-np.inf] * 2, [np.inf] * 2)
    assert chain.velocity.tolist() == [2.0, np.inf]


@pytest.mark.parametrize("kind", ["planar", "floating"])
def test_planar_and_floating_joints_are_refused_by_name_where_the_arm_needs_them(tmp_path, kind):
    path = write_urdf(tmp_path, [joint("drive", kind, "world", "a", ""), joint("j", "revolute", "a", "b")])
    description = read_urdf(path)
    with pytest.raises(KinematicsError, match=f"joint 'drive' between 'world' and 'b' is {kind}.*revolute"):
        KinematicChain.between(description, "world", "b")
    assert KinematicChain.between(description, "a", "b").joints == ("j",)


def test_a_mimic_joint_in_the_chain_moves_with_its_leader(tmp_path):
    # wiki.ros.org/urdf/XML/joint: value = multiplier * other_joint_value + offset.
    follower = '<origin xyz="0.4 0 0"/><mimic joint="lift" multiplier="-1.5" offset="0.2"/>'
    joints = [
        joint("lift", "revolute", "a", "b", '<limit lower="-1" upper="1" velocity="2" effort="1"/>', "0 1 0"),
        joint("level", "revolute", "b", "c", follower + LIMIT, "0 1 0"),
        joint("slide", "prismatic", "c", "d", LIMIT, "1 0 0"),
        joint("again", "prismatic", "d", "e", '<mimic joint="level"/>' + LIMIT, "0 0 1"),
    ]
    chain = chain_of(tmp_path, joints)
    assert chain.joints == ("lift", "slide")
    q = np.array([0.3, 0.1])
    level = -1.5 * 0.3 + 0.2
    expected = turn("y", 0.3) @ shift(0.4, 0, 0) @ turn("y", level) @ shift(0.1, 0, level)
    np.testing.assert_allclose(chain.frames(q)[-1], expected, atol=1e-14)
    np.testing.assert_allclose(chain.jacobian(q), by_differences(chain, q), atol=1e-8)
    assert chain.link_poses(q).keys() == chain.description.links.keys()
    # The followers' limits of -2 .. 2 and 1.5 a second hold too: 1.5 |lift| ± 0.2 within 2.
    np.testing.assert_allclose((chain.lower[0], chain.upper[0]), (-1.0, 1.0))
    np.testing.assert_allclose(chain.velocity, [1.0, 1.5])


def test_a_followers_limits_narrow_its_leaders(tmp_path):
    narrow = '<limit lower="-0.4" upper="0.8" velocity="1" effort="1"/><mimic joint="j" multiplier="-2"/>'
    chain = chain_of(tmp_path, [joint("j", "revolute", "a", "b"), joint("k", "revolute", "b", "c", narrow)])
    np.testing.assert_allclose([chain.lower, chain.upper, chain.velocity], [[-0.4], [0.2], [0.5]])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([joint("k", "revolute", "b", "c", '<mimic joint="k"/>' + LIMIT)], "k mimic each other in a cycle"),
        (
            [joint("k", "revolute", "b", "c", '<mimic joint="no"/>' + LIMIT)],
            "'k' mimics joint 'no', which is not",
        ),
        (
            [joint("f", "fixed", "a", "x"), joint("k", "revolute", "b", "c", '<mimic joint="f"/>' + LIMIT)],
            "'k' mimics joint 'f', which is fixed",
        ),
        (
            [
                joint("o", "revolute", "a", "x"),
                joint("k", "revolute", "b", "c", '<mimic joint="o"/>' + LIMIT),
            ],
            "'k' mimics 'o', which is not between the base link and the tool link",
        ),
        (
            [joint("k", "revolute", "b", "c", LIMIT.replace('upper="2"', 'upper="-2"'))],
            "'k': limits -2.0 .. -2.0",
        ),
        (
            [joint("k", "revolute", "b", "c", '<mimic joint="j" offset="9"/>' + LIMIT)],
            "'j' and the joints that mimic it have no position in common",
        ),
    ],
)
def test_what_leaves_a_joint_without_a_position_is_refused_by_name(tmp_path, more, said):
    with pytest.raises(KinematicsError, match=said):
        chain_of(tmp_path, [joint("j", "revolute", "a", "b"), *more], tool="c")


def test_a_gripper_that_nobody_can_place_does_not_keep_the_arm_from_loading(tmp_path):
    more = [
        joint("finger", "prismatic", "tool", "left", '<mimic joint="nobody"/>' + LIMIT),
        joint("locked", "revolute", "tool", "right", '<limit lower="0" upper="0" velocity="1" effort="1"/>'),
    ]
    chain = KinematicChain.between(read_urdf(arm_of_six(tmp_path, more=more)), "base", "tool")
    offsets = chain.link_offsets()
    assert "left" not in offsets
    np.testing.assert_allclose(offsets["right"][1], shift(0, 0, 0.1))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<sdf/>", "its root is <sdf>, not <robot>"),
        ('<robot xmlns:xacro="http://www.ros.org/wiki/xacro"><xacro:arm/></robot>', "is a xacro file"),
        ('<robot><link name="a"/><link name="a"/></robot>', "link 'a' is defined twice"),
        (
            TWO_LINKS.format(joint("j", "fixed", "a", "b") + joint("j", "fixed", "b", "a")),
            "joint 'j' is defined twice",
        ),
        (
            TWO_LINKS.format(joint("j", "fixed", "a", "b") + joint("k", "fixed", "b", "a")),
            "link '[ab]' is its own ancestor through joint",
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_no_tree_of_a_robot_is_refused(tmp_path, text, said):
    path = tmp_path / "made.urdf"
    path.write_text(text)
    with pytest.raises(KinematicsError, match=said):
        read_urdf(path)


def test_euler_angles_are_about_fixed_axes():
    expected = (turn("z", 0.3) @ turn("y", 0.2) @ turn("x", 0.1))[:3, :3]
    np.testing.assert_allclose(transform_euler_to_matrix([0.1, 0.2, 0.3]), expected, atol=1e-15)


def test_kinematics_equal_mujocos(tmp_path):
    mujoco = pytest.importorskip("mujoco", reason="needs the simulation (the extra [sim])")
    path = arm_of_six(tmp_path)
    settings = '<mujoco><compiler fusestatic="false" boundmass="1" boundinertia="1"/></mujoco>'
    model = mujoco.MjModel.from_xml_string(path.read_text().replace("</robot>", settings + "</robot>"))
    data = mujoco.MjData(model)
    chain = KinematicChain.between(read_urdf(path), "base", "tool")
    for q in np.random.default_rng(0).uniform(-2, 2, (20, 6)):
        data.qpos[:] = q
        mujoco.mj_forward(model, data)
        linear, angular = np.zeros((3, 6)), np.zeros((3, 6))
        mujoco.mj_jacBody(model, data, linear, angular, model.body("tool").id)
        np.testing.assert_allclose(chain.frames(q)[-1][:3, 3], data.body("tool").xpos, atol=1e-9)
        np.testing.assert_allclose(chain.frames(q)[-1][:3, :3].ravel(), data.body("tool").xmat, atol=1e-9)
        np.testing.assert_allclose(chain.jacobian(q), np.concatenate([linear, angular]), atol=1e-9)
