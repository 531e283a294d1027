"""No margin of the collision checks changes faster than its lever arms say, from anywhere to anywhere."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.plain_formulae import frames, jacobian_of, rotation_error, step

from openvla_ros.profile import load_profile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.collision import SelfCollision, TableClearance
from openvla_ros.robot.kinematics.inverse_kinematics import InverseKinematics
from openvla_ros.robot.kinematics.inverse_kinematics import rotation_error as fast_rotation_error
from openvla_ros.robot.kinematics.urdf import read_urdf
from openvla_ros.robot.safety.checked_room import CheckedRoom
from openvla_ros.robot.safety.motion import ROUNDING, MotionChecks, TargetLimits

PROFILES = {name: load_profile(name) for name in ("sim_widowx", "sim_franka")}
CHAINS = {name: KinematicChain.from_profile(profile.arm) for name, profile in PROFILES.items()}
ROBOTS = pytest.mark.parametrize("robot", PROFILES)
SEEDS = st.integers(0, 2**32 - 1)


def shapes(robot: str) -> tuple[SelfCollision, TableClearance]:
    profile, chain = PROFILES[robot], CHAINS[robot]
    fingers = {profile.gripper.joint: profile.gripper.open_m}
    return SelfCollision(chain, fingers, ()), TableClearance(chain, fingers, 0.0)


SHAPES = {robot: shapes(robot) for robot in PROFILES}
LEVERS = {robot: [part.lever_arms(CHAINS[robot]) for part in parts] for robot, parts in SHAPES.items()}
CHECKS = {
    robot: MotionChecks(profile, CHAINS[robot], TargetLimits(profile)) for robot, profile in PROFILES.items()
}


def two_places(robot: str, seed: int) -> np.ndarray:
    """Return two configurations (2, J), near each other or anywhere, some with joints exactly straight."""
    rng, limits = np.random.default_rng(seed), PROFILES[robot].limits
    places = rng.uniform(limits.joint_lower, limits.joint_upper, (2, len(limits.joint_lower)))
    if rng.random() < 0.3:  # parallel axes, or nearly so
        places[0, rng.random(places.shape[1]) < 0.7] = 0.0
    if rng.random() < 0.7:
        places[1] = places[0] + rng.normal(0.0, 10.0 ** rng.uniform(-6, -1), places.shape[1])
    return places


@ROBOTS
@given(seed=SEEDS)
@settings(max_examples=300, deadline=None)
def test_margins_change_no_faster_than_their_lever_arms(robot, seed):
    (links, table), places = SHAPES[robot], two_places(robot, seed)
    placed = CHAINS[robot].frames(places)
    for margins, levers, slack in (
        (links.margins(placed), LEVERS[robot][0], links.rounding_m + ROUNDING),
        (table.margins(placed), LEVERS[robot][1], ROUNDING),
    ):
        change = np.abs(margins[1] - margins[0])
        assert np.all(change <= levers @ np.abs(places[1] - places[0]) + slack)


@ROBOTS
@given(seed=SEEDS)
@settings(max_examples=100, deadline=None)
def test_the_tool_moves_and_tilts_no_faster_than_its_lever_arms(robot, seed):
    chain, places = CHAINS[robot], two_places(robot, seed)
    one, other = chain.frames(places)[:, -1]
    moved, turned = chain.tool_lever_arms()
    by = np.abs(places[1] - places[0])
    assert np.linalg.norm(other[:3, 3] - one[:3, 3]) <= moved @ by + 1e-9
    limits = TargetLimits(PROFILES[robot])
    assert abs(limits.tilt(other[:3, :3]) - limits.tilt(one[:3, :3])) <= turned @ by + 1e-6


@ROBOTS
def test_lever_arms_are_not_much_longer_than_needed(robot):
    """Else nothing would ever be contained: the longest is at most a few times the arm's reach."""
    chain = CHAINS[robot]
    reach_m = max(np.linalg.norm(chain.forward(q).position) for q in (PROFILES[robot].arm.neutral,))
    moved, _ = chain.tool_lever_arms()
    assert reach_m / 2 < moved.max() < 3 * reach_m


def test_a_sliding_joint_has_no_bound(tmp_path):
    path = tmp_path / "slide.urdf"
    path.write_text(
        "<robot name='r'><link name='a'/><link name='b'/><link name='c'/>"
        "<joint name='turn' type='revolute'><parent link='a'/><child link='b'/><axis xyz='0 0 1'/>"
        "<limit lower='-1' upper='1' velocity='1' effort='1'/></joint>"
        "<joint name='slide' type='prismatic'><parent link='b'/><child link='c'/><axis xyz='1 0 0'/>"
        "<limit lower='0' upper='9' velocity='1' effort='1'/></joint></robot>"
    )
    chain = KinematicChain.between(read_urdf(path), "a", "c")
    assert np.isinf(chain.lever_arms(-1, 1, np.zeros((1, 3)))).all()
    assert np.isfinite(chain.lever_arms(-1, 0, np.ones((1, 3)))).all()
    room = CheckedRoom(np.stack(chain.tool_lever_arms()), 0.0)
    room.note(np.zeros(2), np.ones(2))
    assert not room.contains(np.zeros((1, 2)))


def test_a_room_contains_what_no_margin_can_lose_and_nothing_before_it_was_noted():
    room = CheckedRoom(np.array([[1.0, 0.5], [0.0, 2.0]]), reserve=0.1)
    at = np.array([0.3, -0.2])
    assert not room.contains(at[None])
    room.note(at, np.array([0.6, 0.6]))
    assert room.contains(at[None])
    assert room.contains(at + np.array([[0.3, 0.2], [-0.3, -0.2]]))
    assert not room.contains(at + np.array([[0.0, 0.0], [0.3, 0.26]]))  # 2 * 0.26 > 0.6 - 0.1
    assert not room.contains(at + np.array([[0.51, 0.0]]))
    assert not room.contains(np.array([[np.nan, -0.2]]))
    room.note(at, np.array([0.6, 0.05]))  # too near already
    assert not room.contains(at[None])


@ROBOTS
@given(seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_a_check_says_the_same_whatever_was_checked_before(robot, seed):
    profile, rng = PROFILES[robot], np.random.default_rng(seed)
    lower, upper = np.array(profile.limits.joint_lower), np.array(profile.limits.joint_upper)
    used = CHECKS[robot]
    q = rng.uniform(lower, upper)
    way = rng.normal(0.0, 10.0 ** rng.uniform(-3, -1.3), len(q))
    for _ in range(12):
        after = q + way * np.arange(1, 6)[:, None]
        shortened = used.check(q, after)
        with patch.object(CheckedRoom, "contains", lambda room, points: False):
            assert str(used.check(q, after)) == str(shortened)
        q = after[0]


@ROBOTS
@given(seed=SEEDS)
@settings(max_examples=100, deadline=None)
def test_an_inverse_step_is_the_plain_one_bit_for_bit(robot, seed):
    profile, chain, rng = PROFILES[robot], CHAINS[robot], np.random.default_rng(seed)
    limits = profile.limits
    solver = InverseKinematics(
        chain, limits.joint_lower, limits.joint_upper, limits.joint_velocity, profile.arm.neutral
    )
    q = rng.uniform(solver.lower, solver.upper)
    at_limit = rng.random(len(q)) < 0.4
    q[at_limit] = np.where(rng.random(at_limit.sum()) < 0.5, solver.lower[at_limit], solver.upper[at_limit])
    target = chain.frames(np.clip(q + rng.normal(0.0, 0.1, len(q)), solver.lower, solver.upper))[-1]
    if rng.random() < 0.3:
        target = chain.frames(rng.uniform(solver.lower, solver.upper))[-1]
    placed = frames(chain, q)
    assert chain.frames(q).tobytes() == placed.tobytes()
    assert chain.frames(np.stack([q, -q])).tobytes() == frames(chain, np.stack([q, -q])).tobytes()
    assert chain.jacobian_of(placed).tobytes() == jacobian_of(chain, placed).tobytes()
    turns = target[:3, :3], placed[-1, :3, :3]
    assert fast_rotation_error(*turns).tobytes() == rotation_error(*turns).tobytes()
    for _ in range(5):
        fast, plain = solver.step(q, target, 0.01), step(solver, q, target, 0.01)
        assert fast.q.tobytes() == plain.q.tobytes()
        assert (fast.position_error_m, fast.rotation_error_rad, fast.saturation) == (
            plain.position_error_m, plain.rotation_error_rad, plain.saturation,
        )  # fmt: skip
        q = fast.q
