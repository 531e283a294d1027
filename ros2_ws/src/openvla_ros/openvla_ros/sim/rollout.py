"""A policy and a simulated robot in one process, without messages: as fast as the machine allows.

The actions take the same path as on a robot: they compose on the previous commanded target, inverse
kinematics turns that into joints, and the joints are commanded at the controller's rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from openvla_ros.action import ActionChunk
from openvla_ros.arrays import Float
from openvla_ros.observation import Observation
from openvla_ros.policy.protocol import Policy
from openvla_ros.robot.composition import compose
from openvla_ros.robot.inverse import InverseKinematics
from openvla_ros.robot.kinematics import KinematicChain
from openvla_ros.sim.tasks import MAX_STEPS
from openvla_ros.sim.world import SimulatedRobot

BLANK = np.zeros((1, 1, 3), np.uint8)  # the picture of a rollout whose policy does not look


@dataclass(frozen=True)
class Rollout:
    success: bool
    steps: int


class Mover:
    def __init__(self, robot: SimulatedRobot) -> None:
        p = robot.profile
        self.robot = robot
        self.space = p.space()
        self.chain = KinematicChain.from_profile(p.arm)
        self.ik = InverseKinematics(
            self.chain, p.limits.joint_lower, p.limits.joint_upper, p.limits.joint_velocity
        )
        self.reset()

    def reset(self) -> None:
        self.q = np.array(self.robot.joint_positions)
        self.target = self.chain.forward(self.q)

    def execute(self, action: Float) -> None:
        before = self.target
        self.target = compose(self.target, action, self.space)
        n = round(self.space.step_s * self.robot.profile.control.rate_hz)
        self.robot.command_gripper(1.0 if self.space.opening(action[6]) > 0.5 else 0.0)
        for i in range(n):
            m = self.target.matrix.copy()
            m[:3, 3] = before.position + (self.target.position - before.position) * (i + 1) / n
            self.q = self.ik.step(self.q, m, 1.0 / self.robot.profile.control.rate_hz).q
            self.robot.command_joints(self.q)
            self.robot.step(1.0 / self.robot.profile.control.rate_hz)


def observe(robot: SimulatedRobot, images: bool) -> Observation:
    return Observation(
        stamp_ns=round(robot.time_s * 1e9),
        images={c.name: robot.render(c.name) for c in robot.profile.cameras} if images else {"blank": BLANK},
        instruction=robot.instruction,
        joint_positions=robot.joint_positions,
        pose=robot.tool,
        gripper=robot.gripper_opening,
    )


def rollout(
    robot: SimulatedRobot, policy: Policy, images: bool = True, max_steps: int = MAX_STEPS, trace: Callable[..., None] | None = None
) -> Rollout:
    mover = Mover(robot)
    policy.reset()
    for step in range(max_steps):
        chunk: ActionChunk = policy.infer(observe(robot, images))
        if trace:
            trace(step, chunk)
        mover.execute(chunk.actions[0])
        if robot.success:
            return Rollout(True, step + 1)
    return Rollout(False, max_steps)
