"""Kinematics agree with published numbers, with an independent formulation, and with finite differences."""

import math
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from openvla_ros.errors import KinematicsError
from openvla_ros.profile import load_profile
from openvla_ros.resources import share_path
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.inverse_kinematics import (
    ORIENTATION_WEIGHT,
    SINGULAR_VALUE,
    InverseKinematics,
    rotation_error,
)
from openvla_ros.values.geometry import Pose, transform_euler_to_matrix, transform_matrix_to_rotvec

URDF = share_path() / "urdf"
WIDOWX = load_profile("sim_widowx")
FRANKA = load_profile("sim_franka")
WIDOWX_CHAIN = KinematicChain.from_profile(WIDOWX.arm)
FRANKA_CHAIN = KinematicChain.from_profile(FRANKA.arm)
EXPAND = """
import sys, xacro
print(xacro.process_file(sys.argv[1], mappings={"robot": sys.argv[2]}).toxml())
"""
ROBOTS = pytest.mark.parametrize(("profile", "chain"), [(WIDOWX, WIDOWX_CHAIN), (FRANKA, FRANKA_CHAIN)])


def franka(name: str, tool: str) -> KinematicChain:
    joints = [f"{name}_joint{i}" for i in range(1, 8)]
    return KinematicChain.from_urdf(f"{name}.urdf", f"{name}_link0", f"{name}_{tool}", joints)


def franka_by_dh(q: np.ndarray) -> np.ndarray:
    """Franka's flange from the Craig (modified) Denavit-Hartenberg table of its manual."""
    table = [  # a, d, alpha
        (0.0, 0.333, 0.0), (0.0, 0.0, -math.pi / 2), (0.0, 0.316, math.pi / 2),
        (0.0825, 0.0, math.pi / 2), (-0.0825, 0.384, -math.pi / 2), (0.0, 0.0, math.pi / 2),
        (0.088, 0.0, math.pi / 2), (0.0, 0.107, 0.0),
    ]  # fmt: skip
    pose = np.eye(4)
    for (a, d, alpha), theta in zip(table, [*q, 0.0], strict=True):
        ct, st_, ca, sa = math.cos(theta), math.sin(theta), math.cos(alpha), math.sin(alpha)
        pose = pose @ np.array(
            [
                [ct, -st_, 0, a],
                [st_ * ca, ct * ca, -sa, -d * sa],
                [st_ * sa, ct * sa, ca, d * ca],
                [0, 0, 0, 1],
            ]
        )
    return pose


def widowx_by_geometry(q: np.ndarray) -> np.ndarray:
    """The WidowX tool from its link lengths, with elementary rotations only."""

    def move(x: float, z: float) -> np.ndarray:
        m = np.eye(4)
        m[:3, 3] = x, 0.0, z
        return m

    def turn(axis: str, angle: float) -> np.ndarray:
        m = np.eye(4)
        m[:3, :3] = transform_euler_to_matrix([angle * (axis == a) for a in "xyz"])
        return m

    return (
        move(0, 0.072) @ turn("z", q[0]) @ move(0, 0.03865) @ turn("y", q[1])
        @ move(0.04975, 0.25) @ turn("y", q[2]) @ move(0.175, 0) @ turn("x", q[3])
        @ move(0.075, 0) @ turn("y", q[4]) @ move(0.065, 0) @ turn("x", q[5])
        @ move(0.043 + 0.023 + 0.027575, 0)
    )  # fmt: skip


def test_widowx_matches_the_published_poses():
    at_zero = WIDOWX_CHAIN.forward(np.zeros(6))
    np.testing.assert_allclose(at_zero.position, [0.458325, 0.0, 0.36065], atol=1e-6)
    np.testing.assert_allclose(at_zero.rotation, np.eye(3), atol=1e-9)
    # Published to four decimals.
    neutral = WIDOWX_CHAIN.forward(WIDOWX.arm.neutral)
    np.testing.assert_allclose(neutral.position, [0.1202, -0.0191, 0.2467], atol=5.1e-5)
    down = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # BridgeData V2's DEFAULT_ROTATION
    state = Pose(neutral.position, neutral.rotation @ down.T)
    np.testing.assert_allclose(state.euler_xyz, [-0.040, -0.127, 0.025], atol=5.1e-4)
    flat = [-0.01840777, 0.0398835, 0.22242722, -0.00460194, 1.36524296, 0.00153398]
    np.testing.assert_allclose(WIDOWX_CHAIN.forward(flat).position, [0.2921, -0.0061, 0.1353], atol=5.1e-5)
    sink = [-0.2600599, -0.12875618, 0.04461369, -0.00652761, 1.7033415, -0.26983038]
    np.testing.assert_allclose(WIDOWX_CHAIN.forward(sink).position, [0.2497, -0.0675, 0.2276], atol=5.1e-5)


def test_the_profiles_zero_rotation_is_straight_down():
    offset = transform_euler_to_matrix(WIDOWX.arm.state_rotation_offset)
    np.testing.assert_allclose(offset, [[0, 0, 1], [0, 1, 0], [-1, 0, 0]], atol=1e-12)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_widowx_matches_its_link_lengths(seed):
    q = np.random.default_rng(seed).uniform(WIDOWX_CHAIN.lower, WIDOWX_CHAIN.upper)
    np.testing.assert_allclose(WIDOWX_CHAIN.forward(q).matrix, widowx_by_geometry(q), atol=1e-9)


@pytest.mark.parametrize("name", ["fr3", "panda"])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_franka_matches_its_denavit_hartenberg_table(name, seed):
    flange, hand = franka(name, "link8"), franka(name, "hand_tcp")
    q = np.random.default_rng(seed).uniform(flange.lower, flange.upper)
    expected = franka_by_dh(q)
    np.testing.assert_allclose(flange.forward(q).matrix, expected, atol=1e-9)
    tcp = expected @ Pose.from_euler([0, 0, 0.1034], [0, 0, -math.pi / 4]).matrix
    np.testing.assert_allclose(hand.forward(q).matrix, tcp, atol=1e-9)


@ROBOTS
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_the_jacobian_is_the_derivative(profile, chain, seed):
    q = np.random.default_rng(seed).uniform(chain.lower, chain.upper)
    h, columns = 1e-6, []
    for i in range(len(q)):
        ahead, behind = q.copy(), q.copy()
        ahead[i] += h
        behind[i] -= h
        a, b = chain.forward(ahead), chain.forward(behind)
        turn = transform_matrix_to_rotvec(a.rotation @ b.rotation.T)
        columns.append(np.concatenate([a.position - b.position, turn]) / (2 * h))
    np.testing.assert_allclose(chain.jacobian(q), np.array(columns).T, atol=1e-7)


@ROBOTS
def test_batches_give_what_single_configurations_give(profile, chain):
    qs = np.random.default_rng(0).uniform(chain.lower, chain.upper, (5, len(chain.joints)))
    np.testing.assert_allclose(chain.frames(qs), [chain.frames(q) for q in qs], atol=1e-14)


@ROBOTS
def test_every_links_pose_agrees_with_mujoco(profile, chain):
    mujoco = pytest.importorskip("mujoco")
    text = (URDF / profile.arm.urdf).read_text()
    tag = '<mujoco><compiler fusestatic="false" balanceinertia="false"/></mujoco>'
    model = mujoco.MjModel.from_xml_string(text.replace("</robot>", tag + "</robot>"))
    data = mujoco.MjData(model)
    q = np.random.default_rng(1).uniform(chain.lower, chain.upper)
    for name, value in zip(chain.joints, q, strict=True):
        data.qpos[model.joint(name).qposadr[0]] = value
    others = {}
    for joint in range(model.njnt):
        name = model.joint(joint).name
        if name not in chain.joints:
            others[name] = data.qpos[model.jnt_qposadr[joint]] = 0.02
    mujoco.mj_forward(model, data)
    poses = chain.link_poses(q, others)
    assert len(poses) == len(chain.description.links)
    for link, pose in poses.items():
        if link != chain.base_link:
            np.testing.assert_allclose(pose.position, data.body(link).xpos, atol=1e-6, err_msg=link)
            np.testing.assert_allclose(pose.rotation.ravel(), data.body(link).xmat, atol=1e-6, err_msg=link)


@ROBOTS
def test_the_profiles_limits_lie_within_the_urdfs(profile, chain):
    assert np.all(np.array(profile.limits.joint_lower) > chain.lower)
    assert np.all(np.array(profile.limits.joint_upper) < chain.upper)
    assert np.all(np.array(profile.limits.joint_velocity) <= chain.velocity)
    for name in ("neutral", "home", "park"):
        pose = np.array(getattr(profile.arm, name))
        assert np.all((profile.limits.joint_lower <= pose) & (pose <= np.array(profile.limits.joint_upper)))


@pytest.mark.parametrize("robot", ["wx250s", "fr3", "panda"])
def test_inertias_are_physical(robot):
    for link in ElementTree.parse(URDF / f"{robot}.urdf").getroot().findall("link"):
        inertial = link.find("inertial")
        if inertial is None:
            continue
        i = {k: float(v) for k, v in inertial.find("inertia").attrib.items()}
        matrix = [
            [i["ixx"], i["ixy"], i["ixz"]],
            [i["ixy"], i["iyy"], i["iyz"]],
            [i["ixz"], i["iyz"], i["izz"]],
        ]
        small, middle, large = np.linalg.eigvalsh(matrix)
        assert 0 < small <= middle <= large <= small + middle, link.get("name")
        assert float(inertial.find("mass").get("value")) > 0


@pytest.mark.parametrize(
    ("robot", "base"), [("wx250s", "base_link"), ("fr3", "fr3_link0"), ("panda", "panda_link0")]
)
def test_the_work_cell_holds_arm_table_and_camera(robot, base, tmp_path):
    pytest.importorskip("xacro")
    source = URDF / "work_cell.urdf.xacro"
    done = subprocess.run(
        [sys.executable, "-c", EXPAND, str(source), robot],
        capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    cell = tmp_path / "cell.urdf"
    cell.write_text(done.stdout)
    chain = KinematicChain.from_urdf(cell, "world", "camera_primary_optical_frame", [])
    ahead = chain.description.path("world", "camera_primary_optical_frame")
    pose = np.eye(4)
    for joint in ahead:
        pose = pose @ joint.origin
    if robot == "wx250s":  # the direction in which the calibrated camera of BridgeData V2 looks
        np.testing.assert_allclose(pose[:3, 2], [0.635, 0.351, -0.689], atol=1e-3)
    assert pose[2, 2] < -0.3
    assert {base, "table"} <= set(chain.description.links)


def test_errors_name_the_link_or_joint(tmp_path):
    with pytest.raises(KinematicsError, match=r"'no_such_link'.*base_link, shoulder_link"):
        KinematicChain.from_urdf("wx250s.urdf", "base_link", "no_such_link", WIDOWX.arm.joints)
    with pytest.raises(KinematicsError, match=r"moving joints are waist.*lists shoulder"):
        KinematicChain.from_urdf("wx250s.urdf", "base_link", "ee_gripper_link", WIDOWX.arm.joints[1:])
    with pytest.raises(KinematicsError, match=r"wx251\.urdf.*fr3\.urdf, panda\.urdf, wx250s\.urdf"):
        KinematicChain.from_urdf("wx251.urdf", "a", "b", [])
    text = (URDF / "wx250s.urdf").read_text()
    for old, new, message in [
        ('<axis xyz="0 0 1"/>', '<axis xyz="0 0 0"/>', "joint 'waist'.*no direction"),
        ('name="elbow" type="revolute"', 'name="elbow" type="planar"', "joint 'elbow'.*is planar.*revolute"),
        ('name="elbow" type="revolute"', 'name="elbow" type="ball"', "joint 'elbow'.*'ball'.*revolute"),
        ('<parent link="base_link"/>', '<parent link="bass_link"/>', "joint 'waist'.*'bass_link'"),
        ('<box size="0.2335 0.153 0.0716"/>', "<mesh/>", "link 'base_link'.*<mesh> without a filename"),
        ('velocity="3.141592654" effort="20"', 'velocity="nan" effort="20"', "joint 'shoulder'.*'nan'"),
    ]:
        assert old in text
        broken = tmp_path / "broken.urdf"
        broken.write_text(text.replace(old, new, 1))
        with pytest.raises(KinematicsError, match=f"(?s){message}"):
            KinematicChain.from_urdf(broken, "base_link", "ee_gripper_link", WIDOWX.arm.joints)
    with pytest.raises(KinematicsError, match=r"\(5,\).*6"):
        WIDOWX_CHAIN.forward(np.zeros(5))


def inverse(profile, chain) -> InverseKinematics:
    limits = profile.limits
    return InverseKinematics(
        chain, limits.joint_lower, limits.joint_upper, limits.joint_velocity, profile.arm.neutral
    )


@ROBOTS
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_a_step_never_leaves_the_limits(profile, chain, seed):
    rng = np.random.default_rng(seed)
    ik = inverse(profile, chain)
    q = rng.uniform(ik.lower, ik.upper)
    at_limit = rng.random(len(q)) < 0.3
    q[at_limit] = np.where(rng.random(at_limit.sum()) < 0.5, ik.lower[at_limit], ik.upper[at_limit])
    target = Pose.from_euler(rng.uniform(-2, 2, 3), rng.uniform(-3, 3, 3)).matrix
    for _ in range(5):
        step = ik.step(q, target, 0.01)
        assert np.all(np.isfinite(step.q))
        assert np.all((ik.lower <= step.q) & (step.q <= ik.upper))
        assert np.all(np.abs(step.q - q) <= ik.velocity * 0.01 * (1 + 1e-9))
        q = step.q


def is_singular(chain, q):
    """Whether steps near ``q`` are damped."""
    weighted = (
        chain.jacobian_of(chain.frames(q)) * np.array([1.0, 1.0, 1.0, *(ORIENTATION_WEIGHT,) * 3])[:, None]
    )
    return np.linalg.svd(weighted)[1].min() < SINGULAR_VALUE


@ROBOTS
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
@example(seed=1001)  # the WidowX beside its singular wrist
def test_a_near_target_is_reached_to_a_tenth_of_a_millimetre(profile, chain, seed):
    rng = np.random.default_rng(seed)
    ik = inverse(profile, chain)
    q = np.array(profile.arm.neutral) + rng.uniform(-0.15, 0.15, len(chain.joints))
    wanted = q + rng.uniform(-0.1, 0.1, len(q))
    target = chain.frames(wanted)[-1]
    for _ in range(60):
        q = ik.step(q, target, 0.01).q
    reached = chain.frames(q)[-1]
    error_m = 1e-3 if is_singular(chain, wanted) else 1e-4  # there the last tenths take longer
    assert np.linalg.norm(reached[:3, 3] - target[:3, 3]) < error_m
    assert np.linalg.norm(rotation_error(target[:3, :3], reached[:3, :3])) < 1e-3


@ROBOTS
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
@example(seed=120)  # the WidowX beside its singular wrist
@example(seed=556)
def test_solve_returns_what_it_was_asked_for(profile, chain, seed):
    ik = inverse(profile, chain)
    rng = np.random.default_rng(seed)
    wanted = chain.forward(np.array(profile.arm.neutral) + rng.uniform(-0.5, 0.5, len(chain.joints)) * 0.6)
    reached = chain.forward(ik.solve(wanted, profile.arm.neutral))
    assert np.linalg.norm(reached.position - wanted.position) < 1e-4
    assert np.linalg.norm(rotation_error(wanted.rotation, reached.rotation)) < 1e-3


@ROBOTS
@pytest.mark.parametrize("around", ["zero", "neutral"])  # the arm of a WidowX is singular at zero, its home
def test_every_pose_beside_a_known_one_is_reached_and_not_from_elsewhere(profile, chain, around):
    ik, rng = inverse(profile, chain), np.random.default_rng(0)
    base = np.array(profile.arm.neutral) if around == "neutral" else np.zeros(len(chain.joints))
    base = np.clip(base, profile.limits.joint_lower, profile.limits.joint_upper)
    for _ in range(20):
        start, end = (
            np.clip(
                base + rng.normal(0, 0.02, len(base)), profile.limits.joint_lower, profile.limits.joint_upper
            )
            for _ in range(2)
        )
        wanted = chain.forward(end)
        found = ik.solve(wanted, start, 1e-6, 1e-6)
        reached = chain.forward(found)
        assert np.linalg.norm(reached.position - wanted.position) < 1e-6
        assert np.linalg.norm(rotation_error(wanted.rotation, reached.rotation)) < 1e-6
        assert np.abs(found - start).max() < 0.6  # a redundant or singular arm, and no turn of a joint


@ROBOTS
def test_solve_says_how_far_off_it_stayed(profile, chain):
    far = Pose(np.array([3.0, 0.0, 0.3]), np.eye(3))
    with pytest.raises(KinematicsError, match=r"\[3\.0, 0\.0, 0\.3\].*not reachable.* m and"):
        inverse(profile, chain).solve(far, profile.arm.neutral)


def test_the_rotation_error_turns_one_into_the_other():
    rng = np.random.default_rng(3)
    for _ in range(300):
        a = transform_euler_to_matrix(rng.uniform(-3, 3, 3))
        b = transform_euler_to_matrix(rng.uniform(-3, 3, 3))
        np.testing.assert_allclose(rotation_error(a, b), transform_matrix_to_rotvec(a @ b.T), atol=1e-9)
