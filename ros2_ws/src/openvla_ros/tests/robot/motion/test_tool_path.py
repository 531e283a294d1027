"""Composition, the smoothed tool path, the schedule of steps, and distances between links."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_ros.profile import ControlProfile, load_profile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.collision import (
    SelfCollision,
    TableClearance,
    distance_to_box,
    segment_distance,
)
from openvla_ros.robot.kinematics.delta_actions import compose, delta_between
from openvla_ros.robot.modes.step_queue import StepSchedule
from openvla_ros.robot.motion.blended_line import blend_weights
from openvla_ros.robot.motion.tool_path import ToolPath
from openvla_ros.values.action import ActionSpace
from openvla_ros.values.geometry import Pose, transform_matrix_to_rotvec

seeds = st.integers(0, 2**32 - 1)


def space(frame="base", rotation="euler_xyz") -> ActionSpace:
    one = np.ones(7)
    return ActionSpace(tuple("abcdefg"), ("",) * 7, frame, rotation, 1.0, -one, one, 5.0)


def random_pose(rng) -> Pose:
    return Pose.from_quaternion(rng.uniform(-1, 1, 3), rng.normal(size=4))


SPACES = pytest.mark.parametrize("frame", ["base", "tool"])
ROTATIONS = pytest.mark.parametrize("rotation", ["euler_xyz", "rotation_vector"])


@SPACES
@ROTATIONS
@given(seeds)
@settings(max_examples=50, deadline=None)
def test_the_delta_between_two_poses_composes_back(frame, rotation, seed):
    rng = np.random.default_rng(seed)
    before, after, s = random_pose(rng), random_pose(rng), space(frame, rotation)
    again = compose(before, np.append(delta_between(before, after, s), 0.0), s)
    np.testing.assert_allclose(again.matrix, after.matrix, atol=1e-9)


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_base_frame_deltas_are_those_of_bridge_data(seed):
    """Trans(p) Delta Trans(-p) target, Delta with fixed-axis angles (widowx_envs)."""
    rng = np.random.default_rng(seed)
    target, action = random_pose(rng), rng.uniform(-0.3, 0.3, 7)
    there, back = np.eye(4), np.eye(4)
    there[:3, 3], back[:3, 3] = target.position, -target.position
    expected = there @ Pose.from_euler(action[:3], action[3:6]).matrix @ back @ target.matrix
    np.testing.assert_allclose(compose(target, action, space()).matrix, expected, atol=1e-12)


@SPACES
@ROTATIONS
@given(seeds)
@settings(max_examples=30, deadline=None)
def test_a_rotation_leaves_the_tool_point_where_it_is(frame, rotation, seed):
    rng = np.random.default_rng(seed)
    target = random_pose(rng)
    turned = compose(target, [0, 0, 0, *rng.uniform(-1, 1, 3), 0], space(frame, rotation))
    np.testing.assert_array_equal(turned.position, target.position)


def test_tool_frame_deltas_move_along_the_tools_axes():
    target = Pose.from_euler([0.3, 0, 0.2], [0, np.pi / 2, 0])  # the tool's x axis points down
    moved = compose(target, [0.1, 0, 0, 0, 0, 0, 0], space("tool"))
    np.testing.assert_allclose(moved.position, [0.3, 0, 0.1], atol=1e-12)


def test_rotations_do_not_drift_over_many_steps():
    target, rng = Pose.identity(), np.random.default_rng(0)
    for action in rng.uniform(-0.25, 0.25, (5000, 7)):
        target = compose(target, action, space())
    np.testing.assert_allclose(target.rotation @ target.rotation.T, np.eye(3), atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 5, 20, 60])
def test_the_blend_window_is_a_mean(count):
    weights = blend_weights(count)
    assert len(weights) == count
    assert weights.min() > 0
    np.testing.assert_allclose(weights.sum(), 1.0)
    np.testing.assert_allclose(weights, weights[::-1])


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_the_path_is_smooth_stays_between_its_targets_and_ends_on_the_last(seed):
    rng = np.random.default_rng(seed)
    path, targets = ToolPath(0.01, 0.2), [random_pose(rng)]
    path.reset(targets[0])
    poses = []
    for _ in range(6):
        turn = Pose.from_euler(np.zeros(3), rng.uniform(-0.25, 0.25, 3)).rotation
        targets.append(Pose(targets[-1].position + rng.uniform(-0.05, 0.05, 3), turn @ targets[-1].rotation))
        path.begin(targets[-1], 0.2)
        poses += [path.advance() for _ in range(20)]
        assert path.step_done
        assert not path.settled
    poses += [path.advance() for _ in range(21)]
    assert path.settled
    np.testing.assert_allclose(poses[-1], targets[-1].matrix, atol=1e-12)
    points = np.array([pose[:3, 3] for pose in poses])
    corners = np.array([target.position for target in targets])
    assert np.all(points >= corners.min(axis=0) - 1e-12)
    assert np.all(points <= corners.max(axis=0) + 1e-12)
    velocity = np.diff(points, axis=0) / 0.01
    # A change of velocity of at most 0.5 m/s spreads over 0.14 s.
    assert np.abs(np.diff(velocity, axis=0)).max() / 0.01 <= 0.5 / 0.14 * 1.01
    turns = [transform_matrix_to_rotvec(b[:3, :3] @ a[:3, :3].T) for a, b in pairwise(poses)]
    assert np.abs(np.diff(np.array(turns), axis=0)).max() / 1e-4 <= 2.6 / 0.14 * 1.1


def test_steps_that_do_not_fill_whole_ticks_keep_their_rate():
    path = ToolPath(0.01, 0.05)
    path.reset(Pose.identity())
    ticks = 0
    for i in range(15):  # 15 Hz: 6.67 ticks a step
        path.begin(Pose(np.array([0.01 * (i + 1), 0, 0]), np.eye(3)), 1 / 15)
        while not path.step_done:
            path.advance()
            ticks += 1
    assert ticks in (100, 101)


def schedule(**changes) -> StepSchedule:
    return StepSchedule(ControlProfile(**changes), 0.2)


def actions(count: int) -> np.ndarray:
    return np.arange(count * 7, dtype=float).reshape(count, 7)


def test_a_new_chunk_replaces_what_has_not_begun():
    s = schedule()
    s.take(actions(4), 0, 0, 0.0, moving=False)
    assert s.next()[0] == 0.0
    s.take(100 + actions(2), 0, 0, 0.0, moving=True)
    assert [s.next()[0], s.next()[0], s.next()] == [100.0, 107.0, None]


def test_steps_made_since_the_observation_are_skipped_and_one_always_stays():
    s = schedule()
    s.take(actions(8), 0, 0, 0.0, moving=False)
    for tick in range(60):
        s.note(tick * 10**7, 0.01)
    seen_ns = 19 * 10**7  # 0.4 s of motion ago
    assert s.take(actions(8), seen_ns, 60 * 10**7, 0.0, moving=True) == 2
    assert s.take(actions(2), seen_ns, 61 * 10**7, 0.0, moving=True) == 1
    assert len(s) == 1


def test_a_slow_policy_stretches_steps_up_to_the_bound():
    s = schedule(stretch_max=2.0)
    for period_s, expected in ((0.1, 0.2), (0.3, 0.3), (0.9, 0.4)):
        s.clear()
        for i in range(30):
            s.take(actions(1), 0, round(i * period_s * 1e9), 0.0, moving=i > 0)
        assert s.step_s == pytest.approx(expected)


@given(seeds)
@settings(max_examples=100, deadline=None)
def test_segment_distances_agree_with_dense_sampling(seed):
    rng = np.random.default_rng(seed)
    p1, q1, p2, q2 = rng.uniform(-1, 1, (4, 3))
    if seed % 5 == 0:
        q2 = p2 + (q1 - p1) * rng.uniform(-1, 1)  # parallel
    if seed % 7 == 0:
        q1 = p1  # a point
    share = np.linspace(0, 1, 201)[:, None]
    first, second = p1 + share * (q1 - p1), p2 + share * (q2 - p2)
    sampled = np.linalg.norm(first[:, None] - second[None], axis=-1).min()
    distance = segment_distance(p1, q1, p2, q2)
    assert distance <= sampled + 1e-9
    assert sampled - distance < 0.02


def test_box_distances_are_signed():
    half = np.array([1.0, 2.0, 3.0])
    points = [[0, 0, 0], [1.5, 0, 0], [2, 3, 0], [0.9, 0, 0]]
    np.testing.assert_allclose(distance_to_box(np.array(points, float), half), [-1, 0.5, np.sqrt(2), -0.1])


ROBOTS = pytest.mark.parametrize("name", ["sim_widowx", "sim_franka"])


def parts(name):
    profile = load_profile(name)
    chain = KinematicChain.from_profile(profile.arm)
    fingers = {profile.gripper.joint: profile.gripper.open_m}
    known = (profile.arm.home, profile.arm.neutral, profile.arm.park)
    return profile, chain, SelfCollision(chain, fingers, known), TableClearance(chain, fingers, 0.0)


@ROBOTS
def test_named_poses_are_free_and_need_little_allowance(name):
    profile, chain, collision, table = parts(name)
    frames = chain.frames(np.array([profile.arm.home, profile.arm.neutral, profile.arm.park]))
    assert collision.margins(frames).min() > 0
    assert table.margins(frames).min() > 0.02
    assert max(collision.allowances.values(), default=0.0) < 0.016


@ROBOTS
def test_every_overlap_that_mujoco_finds_is_found(name):
    """MuJoCo's exact shapes against our covers, for links that both compare."""
    mujoco = pytest.importorskip("mujoco")
    from openvla_ros.resources import share_path

    profile, chain, collision, _ = parts(name)
    text = (share_path() / "urdf" / profile.arm.urdf).read_text()
    tag = '<mujoco><compiler fusestatic="false"/></mujoco></robot>'
    model = mujoco.MjModel.from_xml_string(text.replace("</robot>", tag))
    data = mujoco.MjData(model)
    compared = {frozenset(pair) for pair in collision._pairs}
    allowed = collision.allowances
    rng = np.random.default_rng(0)
    qs = rng.uniform(profile.limits.joint_lower, profile.limits.joint_upper, (1500, len(chain.joints)))
    margins = collision.margins(chain.frames(qs))
    found = 0
    for q, margin in zip(qs, margins, strict=True):
        for joint, value in zip(chain.joints, q, strict=True):
            data.qpos[model.joint(joint).qposadr[0]] = value
        for joint in range(model.njnt):
            if model.joint(joint).name not in chain.joints:
                data.qpos[model.jnt_qposadr[joint]] = model.jnt_range[joint, 1]
        mujoco.mj_forward(model, data)
        for contact in data.contact:
            pair = frozenset(model.body(model.geom_bodyid[g]).name for g in contact.geom)
            if pair not in compared:
                continue
            slack = max((a for p, a in allowed.items() if frozenset(p) == pair), default=0.0)
            if contact.dist < -slack - 0.01:
                found += 1
                assert margin.min() < 0, (pair, contact.dist)
    assert found > 10


@ROBOTS
def test_the_table_margin_is_the_lowest_point_of_the_shapes(name):
    profile, chain, _, table = parts(name)
    frames = chain.frames(np.array([profile.arm.neutral]))
    tool = frames[0, -1, 2, 3]
    heights = table.margins(frames)[0]
    lowest = min(height for i, height in enumerate(heights) if "finger" in table.link(i))
    # Both tools point down: the finger tips reach 1 to 2 cm beyond the tool point.
    assert 0.005 < tool - lowest < 0.02
