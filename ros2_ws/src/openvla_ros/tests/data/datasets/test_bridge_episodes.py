"""The real Bridge episodes, imported, move the simulated arm as they moved the real one."""

from dataclasses import replace

import numpy as np
import pytest

from openvla_ros.data.formats.rlds_reader import RldsSource
from openvla_ros.policy.replay_policy import ReplayPolicy
from openvla_ros.profile import load_profile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.inverse_kinematics import InverseKinematics
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.geometry import Pose

pytest.importorskip("mujoco", reason="the simulated arm needs mujoco")

PROFILE = load_profile("sim_widowx")


def test_all_bridge_episodes_replay_on_the_simulated_arm(bridge_folder):
    from openvla_ros.sim.rollout import ActionExecutor, observe
    from openvla_ros.sim.tasks import find_task
    from openvla_ros.sim.world import SimulatedRobot

    limits, arm = PROFILE.limits, PROFILE.arm
    inverse = InverseKinematics(
        KinematicChain.from_profile(arm),
        limits.joint_lower,
        limits.joint_upper,
        limits.joint_velocity,
        arm.neutral,
    )
    commanded, moved = [], []
    with SimulatedRobot(PROFILE, find_task("lift"), seed=0) as robot:
        for number, recorded in enumerate(RldsSource(bridge_folder)):
            # The robot's own software clipped actions to these bounds; the dataset holds them before.
            space = PROFILE.space()
            episode = replace(recorded, actions=np.clip(recorded.actions, space.lower, space.upper))
            robot.reset(number, inverse.solve(Pose.from_matrix(episode.poses[0]), arm.neutral))
            np.testing.assert_allclose(robot.tool.position, episode.poses[0, :3, 3], atol=0.01)
            executor, policy, start = (
                ActionExecutor(robot),
                ReplayPolicy(episode, space),
                robot.tool,
            )
            for _ in range(len(episode)):
                verdict = executor.execute(policy.infer(observe(robot, episode.instruction, images=False)))
                assert verdict.outcome == "command", verdict
            hold = episode.actions[-1:].copy()
            hold[0, :6] = 0.0
            executor.execute(ActionChunk(hold, round(robot.time_s * 1e9), space))
            moved.append(robot.tool.position - start.position)
            commanded.append(episode.actions[:, :3].sum(axis=0))
    commanded, moved = np.array(commanded), np.array(moved)
    assert len(moved) == 25
    # What is missing is what the arm still lags and what the cube on its table holds up.
    assert np.median(np.abs(moved - commanded)) < 0.005
    for axis in range(3):
        assert np.corrcoef(commanded[:, axis], moved[:, axis])[0, 1] > 0.9
