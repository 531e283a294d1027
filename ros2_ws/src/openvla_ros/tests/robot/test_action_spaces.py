"""Actions of every kind drive the controller, and every check holds for each of them."""

from dataclasses import replace

import numpy as np
import pytest
from support.action_spaces import LARGEST_STEP_RAD, NEW_SPACES, SPACES, Speaker, in_space
from support.controller_bench import FRANKA, WIDOWX, Bench, with_control

from openvla_ros.errors import ProfileError
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.controller import ArmController
from openvla_ros.robot.kinematics.action_targets import tool_actions
from openvla_ros.robot.kinematics.collision import TableClearance
from openvla_ros.robot.output import ControllerState
from openvla_ros.robot.safety.chunk import ReceivedChunk
from openvla_ros.robot.safety.motion import TABLE_TOLERANCE_M
from openvla_ros.values.geometry import Pose
from openvla_ros.values.verdict import Reason

EACH = pytest.mark.parametrize(("kind", "rotation"), NEW_SPACES, ids=lambda s: s)
BOTH = pytest.mark.parametrize("robot", [WIDOWX, FRANKA], ids=["widowx", "franka"])
TARGETS = [space for space in NEW_SPACES if space[0] in ("tool_pose", "joint_position")]
JOINTS = [space for space in NEW_SPACES if space[0].startswith("joint")]


def roomy(profile: RobotProfile) -> RobotProfile:
    """``profile`` with a workspace and tilt that stop nothing: other limits are what is tested."""
    limits = replace(
        profile.limits, workspace_lower=(-5.0, -5.0, -5.0), workspace_upper=(5.0, 5.0, 5.0), tilt_rad=3.14
    )
    return replace(profile, limits=limits)


def drive(bench: Bench, speaker: Speaker, goal: np.ndarray, step_rad: float = 0.06, seconds: float = 8.0):
    """Send one action after another toward joints ``goal``, until there or refused; returns the verdicts."""
    target, verdicts = bench.q.copy(), []
    for _ in range(round(seconds / 0.2)):
        following = target + np.clip(goal - target, -step_rad, step_rad)
        verdict = bench.send(speaker.action(target, following))
        verdicts.append(verdict)
        if not verdict.commands:
            break
        target = following
        verdicts.append(bench.tick(20).verdict)
        if not verdicts[-1].commands:
            break
    bench.tick(100)
    return verdicts


@BOTH
@EACH
def test_a_chunk_leads_where_it_says_within_the_limits(robot, kind, rotation):
    profile = in_space(robot, kind, rotation)
    bench, speaker = Bench(profile), Speaker(profile)
    start = bench.q.copy()
    places = (
        start
        + np.linspace(0, 1, 7)[:, None] * np.full(len(start), 0.12) * [1, 1, -1, 1, -1, 1, 1][: len(start)]
    )
    verdict = bench.send(*speaker.walk(places))
    assert verdict.commands, verdict
    bench.tick(300)
    wanted, tool = speaker.chain.forward(places[-1]), bench.tool()
    np.testing.assert_allclose(tool.position, wanted.position, atol=2e-4)
    np.testing.assert_allclose(tool.rotation, wanted.rotation, atol=2e-3)
    if kind.startswith("joint"):
        np.testing.assert_allclose(bench.q, places[-1], atol=1e-4)
    targets = [o.target for o in bench.outputs if o.target is not None]
    np.testing.assert_allclose(targets[-1].position, wanted.position, atol=1e-9)
    limits = profile.limits
    for rate, limit in zip(
        bench.streams(), (limits.joint_velocity, limits.joint_acceleration, limits.joint_jerk), strict=True
    ):
        assert np.all(np.abs(rate) <= np.array(limit) * (1 + 1e-6))


@EACH
def test_chunks_in_motion_go_on_where_the_last_one_leads(kind, rotation):
    profile = in_space(WIDOWX, kind, rotation)
    bench, speaker = Bench(profile), Speaker(profile)
    goal = bench.q + np.array([0.4, 0.1, -0.1, 0.0, 0.0, 0.0])
    verdicts = drive(bench, speaker, goal)
    assert {v.reason for v in verdicts} <= {Reason.OK, Reason.STARVED}
    np.testing.assert_allclose(bench.tool().position, speaker.chain.forward(goal).position, atol=2e-3)


@BOTH
@pytest.mark.parametrize(("kind", "rotation"), TARGETS, ids=lambda s: s)
def test_a_far_target_is_refused_and_nothing_moves(robot, kind, rotation):
    profile = in_space(robot, kind, rotation)
    bench, speaker = Bench(profile), Speaker(profile)
    start = bench.q.copy()
    far = start.copy()
    far[0] += 2 * LARGEST_STEP_RAD
    verdict = bench.send(speaker.action(start, far))
    assert (verdict.commands, verdict.reason) == (False, Reason.STEP_BOUNDS)
    assert "from the one before" in verdict.detail
    bench.tick(100)
    assert np.array_equal(bench.q, start)
    assert bench.outputs[-1].joint_positions is None
    assert bench.outputs[-1].counters[Reason.STEP_BOUNDS] == 1


@pytest.mark.parametrize(("kind", "rotation"), TARGETS, ids=lambda s: s)
def test_a_far_target_in_motion_is_refused_and_the_last_chunk_is_finished(kind, rotation):
    profile = in_space(WIDOWX, kind, rotation)
    bench, speaker = Bench(profile), Speaker(profile)
    places = bench.q + np.linspace(0, 1, 5)[:, None] * np.array([0.2, 0, 0, 0, 0, 0])
    assert bench.send(*speaker.walk(places)).commands
    bench.tick(30)
    far = places[-1] + np.array([0.8, 0, 0, 0, 0, 0])
    assert bench.send(speaker.action(places[-1], far)).reason is Reason.STEP_BOUNDS
    assert bench.outputs[-1].state is ControllerState.EXECUTING
    bench.tick(200)
    np.testing.assert_allclose(bench.q, places[-1], atol=2e-3)


def test_a_far_tool_pose_is_refused_even_where_a_limit_would_bring_it_near():
    tool = Speaker(WIDOWX).chain.forward(np.array(WIDOWX.arm.neutral))
    floor = (*WIDOWX.limits.workspace_lower[:2], float(tool.position[2]) - 0.02)
    profile = in_space(WIDOWX, "tool_pose", "rotation_6d")
    profile = replace(profile, limits=replace(profile.limits, workspace_lower=floor))
    bench, actions = Bench(profile), tool_actions(profile.space())
    start = bench.q.copy()
    for depth_m, reason in ((0.03, Reason.WORKSPACE), (0.3, Reason.STEP_BOUNDS)):  # clipped to 0.02 m, both
        below = Pose(tool.position - [0.0, 0.0, depth_m], tool.rotation)
        verdict = bench.send(np.append(actions.between(tool, below), 1.0))
        assert verdict.commands == (reason is Reason.WORKSPACE)
        if reason is Reason.STEP_BOUNDS:
            assert verdict.reason is reason
        else:
            bench.tick(100)
            start = bench.q.copy()
    bench.tick(100)
    np.testing.assert_allclose(bench.q, start, atol=1e-6)


@pytest.mark.parametrize(("kind", "rotation"), TARGETS, ids=lambda s: s)
def test_a_far_target_inside_a_chunk_is_refused_as_a_whole(kind, rotation):
    profile = in_space(WIDOWX, kind, rotation)
    bench, speaker = Bench(profile), Speaker(profile)
    start = bench.q.copy()
    places = np.array([start, start, start + np.array([0.6, 0, 0, 0, 0, 0])])
    assert bench.send(*speaker.walk(places)).reason is Reason.STEP_BOUNDS
    bench.tick(50)
    assert np.array_equal(bench.q, start)


@pytest.mark.parametrize(("kind", "rotation"), TARGETS, ids=lambda s: s)
def test_a_target_that_became_far_because_something_holds_the_arm_stops_it(kind, rotation):
    base = roomy(WIDOWX)
    # Only the step from the measured arm is to be refused here.
    base = replace(base, limits=replace(base.limits, tracking_error_rad=3.0))
    profile = roomy(in_space(base, kind, rotation))
    bench, speaker = Bench(profile), Speaker(profile)
    places = bench.q + np.linspace(0, 1, 9)[:, None] * np.array([1.6, 0, 0, 0, 0, 0])
    assert bench.send(*speaker.walk(places)).commands
    start = bench.q.copy()
    outputs = []
    for _ in range(180):
        bench.q = start  # something holds the arm
        outputs.append(bench.tick())
    held = next(o for o in outputs if not o.verdict.commands)
    assert (held.verdict.reason, held.state) == (Reason.STEP_BOUNDS, ControllerState.HOLDING)
    assert held.counters[Reason.STEP_BOUNDS] == 1
    assert outputs[-1].at_rest
    # Up to the step that was refused, and the way in which it brakes from there.
    assert abs(outputs[-1].joint_positions[0] - start[0]) < 0.8


@pytest.mark.parametrize(("kind", "rotation"), JOINTS, ids=lambda s: s)
@pytest.mark.parametrize(
    ("joint", "change", "limit", "reason"),
    [
        (0, 0.2, {"workspace_upper": (0.45, 0.0, 0.30)}, Reason.WORKSPACE),
        (4, -0.2, {"tilt_rad": 0.1}, Reason.TILT),
    ],
)
def test_a_joint_target_that_takes_the_tool_out_is_refused_as_a_whole(
    kind, rotation, joint, change, limit, reason
):
    base = replace(WIDOWX, limits=replace(WIDOWX.limits, **limit))
    profile = in_space(base, kind, rotation)
    bench, speaker = Bench(profile), Speaker(profile)
    places = np.tile(bench.q, (3, 1))
    places[2, joint] += change
    verdict = bench.send(*speaker.walk(places))
    assert (verdict.commands, verdict.reason) == (False, reason)
    assert verdict.detail.startswith("the joint target")
    assert bench.tick(50).joint_positions is None
    # A little the other way is allowed.
    places[2, joint] -= 1.1 * change
    assert bench.send(*speaker.walk(places)).commands


@pytest.mark.parametrize(("kind", "rotation"), JOINTS, ids=lambda s: s)
def test_a_joint_target_beyond_its_limit_is_refused(kind, rotation):
    profile = roomy(in_space(WIDOWX, kind, rotation))
    bench, speaker = Bench(profile), Speaker(profile)
    upper = np.array(profile.limits.joint_upper)
    goal = bench.q.copy()
    goal[5] = upper[5] + 0.3
    verdicts = drive(bench, speaker, goal, step_rad=0.2, seconds=20.0)
    expected = Reason.JOINT_LIMIT if kind == "joint_delta" else Reason.STEP_BOUNDS
    assert verdicts[-1].reason is expected
    assert "wrist_rotate" in verdicts[-1].detail
    reached = np.array([o.joint_positions[5] for o in bench.outputs if o.joint_positions is not None])
    assert upper[5] - 0.25 <= reached.max() <= upper[5]


@EACH
def test_the_tool_stays_in_the_workspace(kind, rotation):
    profile = in_space(WIDOWX, kind, rotation)
    bench, speaker = Bench(profile), Speaker(profile)
    goal = bench.q + np.array([1.4, 0.0, 0.0, 0.0, 0.0, 0.0])  # to the side, out of the box
    verdicts = drive(bench, speaker, goal)
    # Poses beyond the box are refused by their bounds, which are the box here.
    assert {v.reason for v in verdicts if v.reason is not Reason.OK} <= {
        Reason.WORKSPACE, Reason.STEP_BOUNDS, Reason.INVERSE_KINEMATICS, Reason.TILT, Reason.STARVED,
    }  # fmt: skip
    assert not verdicts[-1].commands
    tool = np.array([o.tool.position for o in bench.outputs if o.tool is not None])
    limits = profile.limits
    outside = np.maximum(limits.workspace_lower - tool, tool - limits.workspace_upper).max()
    assert -0.02 < outside <= limits.workspace_tolerance_m


def test_a_pose_beyond_the_box_but_within_its_bounds_is_clipped_like_a_delta():
    profile = in_space(WIDOWX, "tool_pose", "rotation_6d")
    wide = replace(profile.action_space, lower=(-1.0,) * 9 + (0.0,), upper=(1.0,) * 10)
    profile = replace(profile, action_space=wide)
    bench, speaker = Bench(profile), Speaker(profile)
    pose = speaker.action(bench.q, bench.q)
    top = profile.limits.workspace_upper[2]
    pose[2] = min(top + 0.01, pose[2] + 0.045)
    for _ in range(6):
        assert bench.send(pose).commands
        bench.tick(20)
        pose[2] = min(top + 0.04, pose[2] + 0.02)
    bench.tick(80)
    assert any(o.verdict.reason is Reason.WORKSPACE and o.verdict.commands for o in bench.outputs)
    assert max(o.target.position[2] for o in bench.outputs if o.target is not None) <= top + 1e-9


@EACH
def test_the_arm_does_not_touch_the_table(kind, rotation):
    profile = roomy(in_space(roomy(WIDOWX), kind, rotation))
    bench, speaker = Bench(profile), Speaker(profile)
    goal = bench.q + np.array([0.0, 1.5, 0.0, 0.0, 0.0, 0.0])  # the shoulder leans forward and down
    verdicts = drive(bench, speaker, goal)
    assert verdicts[-1].reason is Reason.TABLE
    fingers = {profile.gripper.joint: profile.gripper.open_m}
    table = TableClearance(speaker.chain, fingers, profile.limits.table_height_m)
    moved = np.array([o.joint_positions for o in bench.outputs if o.joint_positions is not None])
    assert table.margins(speaker.chain.frames(moved)).min() > -TABLE_TOLERANCE_M - 1e-6


@EACH
def test_the_arm_does_not_touch_itself(kind, rotation):
    base = roomy(WIDOWX)
    base = replace(base, limits=replace(base.limits, table_height_m=None))
    profile = in_space(base, kind, rotation)
    bench, speaker = Bench(profile, at="park"), Speaker(profile)
    goal = np.array(profile.arm.park) + np.array([0.0, 0.0, 0.0, 0.0, 1.2, 0.0])  # the wrist folds in
    verdicts = drive(bench, speaker, goal)
    assert verdicts[-1].reason is Reason.SELF_COLLISION


@EACH
def test_a_chunk_of_any_other_space_is_refused(kind, rotation):
    profile = in_space(WIDOWX, kind, rotation)
    for other in SPACES:
        if other == (kind, rotation):
            continue
        bench = Bench(profile)
        theirs = in_space(WIDOWX, *other)
        action = Speaker(theirs).action(bench.q, bench.q)
        chunk = replace(
            bench.chunk(np.zeros(profile.space().width)), actions=action[None], space=theirs.space()
        )
        verdict = bench.controller.accept(chunk, "policy", bench.now_ns)
        assert not verdict.commands
        assert verdict.reason in (Reason.SPACE, Reason.WIDTH), other


@EACH
def test_names_units_frame_time_and_numbers_are_checked_as_for_deltas(kind, rotation):
    profile = in_space(WIDOWX, kind, rotation)
    bench, speaker = Bench(profile), Speaker(profile)
    still = speaker.action(bench.q, bench.q)
    chunk = bench.chunk(still)
    good = ReceivedChunk.from_chunk(chunk, profile)
    nan, inf = still.copy(), still.copy()
    nan[0], inf[-2] = np.nan, np.inf
    names = (*good.names[1::-1], *good.names[2:])
    degrees = tuple("deg" if unit in ("rad", "1") else unit for unit in good.units)
    for changes, reason in (
        ({"names": names}, Reason.SPACE),
        ({"units": degrees}, Reason.SPACE),
        ({"frame_id": "tool"}, Reason.SPACE),
        ({"step_s": 0.1}, Reason.TIMING),
        ({"stamp_ns": good.stamp_ns - 10**9}, Reason.STALE),
        ({"stamp_ns": good.stamp_ns + 10**9}, Reason.FUTURE),
        ({"values": nan[None]}, Reason.NOT_FINITE),
        ({"values": inf[None]}, Reason.NOT_FINITE),
        ({"values": still[None, :-1]}, Reason.WIDTH),
        ({"values": np.tile(still, (11, 1))}, Reason.TIMING),
        ({"values": (still + 1e3)[None]}, Reason.STEP_BOUNDS),
    ):
        refused = bench.controller.accept(replace(good, **changes), "policy", bench.now_ns)
        assert (refused.commands, refused.reason) == (False, reason), changes
    assert bench.controller.accept(good, "teleoperation", bench.now_ns).reason is Reason.OWNER
    assert bench.controller.accept(good, "policy", bench.now_ns).commands
    assert bench.controller.accept(good, "policy", bench.now_ns).reason is Reason.DUPLICATE


@EACH
@pytest.mark.parametrize("gripper_open", [0, 1])
def test_the_gripper_sign_is_the_profiles(kind, rotation, gripper_open):
    profile = in_space(WIDOWX, kind, rotation)
    profile = replace(profile, action_space=replace(profile.action_space, gripper_open=gripper_open))
    for command in (0.0, 1.0):
        bench, speaker = Bench(profile), Speaker(profile)
        assert bench.send(speaker.action(bench.q, bench.q, command)).commands
        assert bench.tick(5).gripper_opening == float(command == gripper_open)


@pytest.mark.parametrize(
    ("rotation", "numbers", "words"),
    [
        ("matrix", np.zeros(9), "singular values"),
        ("matrix", np.diag([1, 1, -1]).ravel(), "reflection"),
        ("quaternion_xyzw", [0, 0, 0, 0], "a quaternion has length 1"),
        ("rotation_6d", [1, 0, 0, 1, 0, 0], "parallel"),
    ],
)
def test_numbers_that_are_no_rotation_are_refused(rotation, numbers, words):
    profile = in_space(WIDOWX, "tool_pose", rotation)
    bench, speaker = Bench(profile), Speaker(profile)
    action = speaker.action(bench.q, bench.q)
    action[3:-1] = numbers
    verdict = bench.send(action)
    assert (verdict.commands, verdict.reason) == (False, Reason.SPACE)
    assert words in verdict.detail
    assert bench.tick(20).joint_positions is None


@EACH
def test_blocking_control_makes_one_move_after_the_other(kind, rotation):
    profile = with_control(in_space(WIDOWX, kind, rotation), mode="blocking")
    bench, speaker = Bench(profile), Speaker(profile)
    start = bench.q.copy()
    first, second = start + 0.05, start + 0.1
    assert bench.send(speaker.action(start, first)).commands
    bench.tick(10)
    assert bench.send(speaker.action(first, second)).reason is Reason.BUSY
    bench.tick(150)
    assert bench.send(speaker.action(first, second)).commands
    bench.tick(150)
    reached, wanted = bench.tool(), speaker.chain.forward(second)
    np.testing.assert_allclose(reached.position, wanted.position, atol=5e-4)


def test_joint_targets_faster_than_the_arm_are_followed_at_its_own_speed():
    slow = replace(WIDOWX.limits, joint_velocity=(0.3,) * 6)
    profile = roomy(in_space(replace(WIDOWX, limits=slow), "joint_position", "none"))
    bench, speaker = Bench(profile), Speaker(profile)
    places = bench.q + np.linspace(0, 1, 5)[:, None] * np.array([0.8, 0, 0, 0, 0, 0])
    assert bench.send(*speaker.walk(places)).commands
    bench.tick(600)
    velocity = bench.streams()[0]
    assert 0.2 < velocity.max() <= 0.3 * (1 + 1e-9)
    np.testing.assert_allclose(bench.q, places[-1], atol=1e-4)


def test_a_slow_arm_has_made_as_many_steps_as_it_has():
    """The next chunk goes on from where the arm is in the old one, not from where a fast arm would be."""
    slow = replace(WIDOWX.limits, joint_velocity=(0.3,) * 6)
    profile = roomy(in_space(replace(WIDOWX, limits=slow), "joint_delta", "none"))
    bench, speaker = Bench(profile), Speaker(profile)
    start = bench.q.copy()
    places = start + np.linspace(0, 1, 6)[:, None] * np.array([0.8, 0, 0, 0, 0, 0])
    actions = speaker.walk(places)
    assert bench.send(*actions).commands
    bench.tick(90)  # 0.16 rad at 0.27 rad/s take 0.59 s: the second step is under way
    stamp_ns = bench.now_ns - 400_000_000
    again = replace(bench.chunk(*actions[:3]), observation_stamp_ns=stamp_ns)
    verdict = bench.controller.accept(again, "policy", bench.now_ns)
    # 0.4 s ago the first step was under way: the step since then is the second, and it is not finished.
    assert verdict.detail == "1 steps are past"


def test_units_that_contradict_the_joint_types_stop_the_controller_at_start():
    profile = in_space(WIDOWX, "joint_delta", "none")
    units = ("m", *profile.action_space.units[1:])
    profile = replace(profile, action_space=replace(profile.action_space, units=units))
    with pytest.raises(ProfileError, match=r"action_space.units of the joints are \['m', 'rad'.*\['rad'"):
        ArmController(profile)
