"""A controller that saves work commands the same, to the last bit, as one that computes everything."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from support.action_spaces import SPACES, Speaker, in_space
from support.adversary import adversary_of
from support.controller_bench import FRANKA, WIDOWX, Bench
from support.plain_formulae import plain_formulae

from openvla_ros.profile import RobotProfile
from openvla_ros.robot.output import ControllerOutput
from openvla_ros.robot.safety.checked_room import CheckedRoom
from openvla_ros.values.verdict import Reason

ROBOTS = {"widowx": WIDOWX, "franka": FRANKA}
# What the pushes below end at.
MET = {"widowx": {Reason.SELF_COLLISION, Reason.TABLE}, "franka": {Reason.JOINT_LIMIT, Reason.TABLE}}


def roomy(profile: RobotProfile) -> RobotProfile:
    """``profile`` with a workspace that ends nothing before the arm meets the table or itself."""
    limits = replace(profile.limits, workspace_lower=(-5.0,) * 3, workspace_upper=(5.0,) * 3, tilt_rad=3.14)
    return replace(profile, limits=limits)


def everything(output: ControllerOutput) -> tuple:
    """What ``output`` says, arrays as their bytes."""
    joints = (output.joint_positions, output.joint_velocities, output.joint_accelerations)
    poses = [(pose.position, pose.rotation) for pose in (output.tool, output.target) if pose is not None]
    arrays = [*joints, *(part for pose in poses for part in pose)]
    return (
        [None if a is None else (a.dtype, a.shape, a.tobytes()) for a in arrays],
        output.stamp_ns, output.state, output.owner, str(output.verdict), output.gripper_opening,
        output.at_rest, output.settled, output.observation_ns, dict(output.counters),
    )  # fmt: skip


def attacked(profile: RobotProfile, ticks: int, seed: int) -> list[tuple]:
    adversary, found = adversary_of(profile, seed), []
    adversary.burst = 2
    for _ in range(ticks):
        adversary.tick()
        found.append(everything(adversary.output))
    return found


def pushed(profile: RobotProfile, ticks: int, seed: int) -> list[tuple]:
    """Push the arm one way after another, each until it is stopped or two seconds are over."""
    rng, bench, speaker = np.random.default_rng(seed), Bench(profile), Speaker(profile)
    found = []
    while len(found) < ticks:
        heading = rng.uniform(-1.0, 1.0, len(bench.q)) * (
            0.24 if "joint" in profile.action_space.kind else 0.1
        )
        if rng.random() < 0.1:
            bench.controller.go_to(str(rng.choice(["home", "neutral", "park"])))
        for i in range(200):
            if i % 20 == 0:
                bench.send(speaker.action(bench.q, bench.q + heading), age_s=0.02)
            bench.now_ns += int(rng.integers(3_000_000)) * (rng.random() < 0.1)
            output = bench.tick()
            found.append(everything(output))
            if not output.verdict.commands and output.verdict.reason is not Reason.WAITING:
                break
        bench.controller.give_to("policy")
    return found


def compared(run: Callable[..., list[tuple]], profile: RobotProfile, ticks: int, seed: int) -> list[tuple]:
    """Return the outputs of a run after comparing them with those of the plain formulae."""
    with plain_formulae():
        plain = run(profile, ticks, seed)
    found = run(profile, ticks, seed)
    assert len(found) == len(plain)
    for i, (one, other) in enumerate(zip(found, plain, strict=True)):
        assert one == other, f"tick {i}"
    return found


@pytest.mark.parametrize("robot", ROBOTS)
@pytest.mark.parametrize("mode", ["streaming", "blocking"])
def test_an_adversary_gets_the_same_commands(robot, mode):
    base = ROBOTS[robot]
    profile = replace(base, control=replace(base.control, mode=mode))
    moving = [one for one in compared(attacked, profile, 400, seed=3) if one[0][0] is not None]
    assert len({one[0][0][2] for one in moving}) > (40 if mode == "blocking" else 100)


@pytest.mark.parametrize("robot", ROBOTS)
def test_an_arm_that_meets_itself_and_the_table_gets_the_same_commands(robot):
    found = []
    for kind, rotation, seed in (("joint_delta", "none", 5), ("tool_delta", "euler_xyz", 6)):
        found += compared(pushed, roomy(in_space(ROBOTS[robot], kind, rotation)), 900, seed)
    reasons = {reason for one in found for reason in one[-1]}
    assert reasons >= MET[robot]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kind", "rotation"), SPACES, ids=lambda s: s)
@pytest.mark.parametrize("robot", ROBOTS)
def test_every_action_space_gets_the_same_commands(robot, kind, rotation):
    profile = in_space(ROBOTS[robot], kind, rotation)
    for seed in range(3):
        compared(attacked, profile, 1500, seed)
        compared(attacked, roomy(profile), 1500, seed)
        compared(pushed, roomy(profile), 1500, seed)


def test_most_motions_are_seen_to_be_safe_without_their_distances(monkeypatch):
    asked: list[bool] = []
    contains = CheckedRoom.contains

    def noted(room: CheckedRoom, points: np.ndarray) -> bool:
        asked.append(contains(room, points))
        return asked[-1]

    monkeypatch.setattr(CheckedRoom, "contains", noted)
    for profile in ROBOTS.values():
        asked.clear()
        bench = Bench(profile)
        for i in range(20):
            bench.run_policy([0.01 * np.sin(i), 0.01 * np.cos(i), 0, 0, 0, 0, 1.0], 0.2)
        assert sum(asked) > 0.7 * len(asked) > 0
