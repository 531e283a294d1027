"""Snapshots instead of episodes: the arm anywhere over a new scene, and the expert's action there.

Each snapshot has its own layout, arm pose and instruction, so a few thousand cover what hundreds of
episodes do not. There is no physics except the settling after a reset: an object is never in the gripper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openvla_ros.policy.expert import APPROACH_ABOVE_M, ScriptedExpert
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.inverse_kinematics import InverseKinematics
from openvla_ros.sim.labels import Whereabouts, asked_for, whereabouts
from openvla_ros.sim.rollout import observe
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose, transform_euler_to_matrix, transform_rotvec_to_matrix
from openvla_ros.values.observation import Observation

NEAR_SHARE = 0.6  # of the snapshots show the tool near what the words name; the others anywhere
NEAR_M = 0.03  # standard deviation of the tool's distance from there, sideways
TURN_RAD = 0.12  # standard deviation of the tool's rotation, each axis
OPEN_SHARE, CLOSED_SHARE = 0.55, 0.3  # the gripper's opening is anywhere for the rest
SEARCH_STEPS = 25  # of the inverse kinematics; where it stops is where the arm is put


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One moment, the expert's action (7,), and the ground truth."""

    observation: Observation
    chunk: ActionChunk
    whereabouts: Whereabouts
    asked: tuple[int, int, int]  # see ``asked_for``


class Photographer:
    """Takes snapshots of one robot."""

    def __init__(self, robot: SimulatedRobot) -> None:
        self._robot = robot
        profile, limits = robot.profile, robot.profile.limits
        self._camera = profile.cameras[0].name
        self._down = transform_euler_to_matrix(profile.arm.state_rotation_offset)
        self._inverse = InverseKinematics(
            KinematicChain.from_profile(profile.arm),
            limits.joint_lower,
            limits.joint_upper,
            limits.joint_velocity,
        )
        self._expert = ScriptedExpert.for_profile(profile, robot.scene)

    def take(self, seed: int) -> Snapshot:
        """Return the snapshot of ``seed``; the same seed gives the same one."""
        robot, random = self._robot, np.random.default_rng([seed, 2406_09246])
        robot.reset(seed)
        joints = self._joints_for(self._tool_pose(random))
        kind = random.uniform()
        opening = random.uniform() if kind > OPEN_SHARE + CLOSED_SHARE else float(kind < OPEN_SHARE)
        robot.reset(seed, joints, opening)
        observation = observe(robot, robot.instruction)
        self._expert.reset()
        chunk = self._expert.infer(observation)
        return Snapshot(observation, chunk, whereabouts(robot, self._camera), asked_for(robot.goal))

    def _tool_pose(self, random: np.random.Generator) -> Pose:
        limits, scene, goal = self._robot.profile.limits, self._robot.scene(), self._robot.goal
        lower, upper = np.array(limits.workspace_lower), np.array(limits.workspace_upper)
        lower[2] = scene.table_m + 0.01
        position: Float = random.uniform(lower, upper)
        if random.uniform() < NEAR_SHARE:
            named = [scene[name].position for name in (goal.object, goal.destination) if name is not None]
            sideways = random.normal(0.0, NEAR_M, 2) * random.uniform()
            position = named[int(random.integers(len(named)))] + np.array(
                [*sideways, random.uniform(0.0, 1.5 * APPROACH_ABOVE_M)]
            )
        turn = transform_rotvec_to_matrix(random.normal(0.0, TURN_RAD, 3))
        return Pose(position.clip(lower, upper), turn @ self._down)

    def _joints_for(self, pose: Pose) -> Float:
        joints = np.array(self._robot.profile.arm.neutral)
        for _ in range(SEARCH_STEPS):
            joints = self._inverse.step(joints, pose.matrix, dt=1.0).q
        return joints
