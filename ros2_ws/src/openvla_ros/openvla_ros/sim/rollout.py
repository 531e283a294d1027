"""A policy and a simulated robot in one process, without messages: as fast as the machine allows.

The actions take the path that they take on a robot: they compose on the previous commanded target,
inverse kinematics turns that into joints, the joints are commanded at the controller's rate. Used
to generate demonstrations, to evaluate policies, and by tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from openvla_ros.action import ActionChunk
from openvla_ros.arrays import Float, read_only
from openvla_ros.geometry import Pose
from openvla_ros.observation import Observation
from openvla_ros.policy.protocol import Policy
from openvla_ros.robot.composition import compose
from openvla_ros.robot.inverse import InverseKinematics
from openvla_ros.robot.kinematics import KinematicChain
from openvla_ros.sim.tasks import MAX_STEPS
from openvla_ros.sim.world import SimulatedRobot

# The picture of a rollout whose policy does not look: an observation must hold one.
BLANK = {"blank": read_only(np.zeros((1, 1, 3), np.uint8))}


@dataclass(frozen=True)
class Rollout:
    """How one episode went."""

    success: bool
    steps: int  # actions that were executed
    seconds: float  # of simulated time


class ActionExecutor:
    """Carries out actions on a simulated robot, one after the other."""

    def __init__(self, robot: SimulatedRobot) -> None:
        profile = robot.profile
        self._robot = robot
        self._space = profile.space()
        self._period_s = 1.0 / profile.control.rate_hz
        self._ticks = max(1, round(self._space.step_s / self._period_s))
        self._chain = KinematicChain.from_profile(profile.arm)
        limits = profile.limits
        self._inverse = InverseKinematics(
            self._chain, limits.joint_lower, limits.joint_upper, limits.joint_velocity, profile.arm.neutral
        )
        self.reset()

    def reset(self) -> None:
        """Take the measured pose as the commanded target, as when control is taken over."""
        self._joints: Float = np.array(self._robot.joint_positions)
        self._target = self._chain.forward(self._joints)

    @property
    def target(self) -> Pose:
        """The tool pose that the next action composes on."""
        return self._target

    def execute(self, action: Float) -> None:
        """Carry out one action (D,) within one step of the action space."""
        before, self._target = self._target, compose(self._target, action, self._space)
        wanted = self._target.matrix
        self._robot.command_gripper(
            float(self._space.opening(action[-1]) > self._robot.profile.gripper.threshold)
        )
        for tick in range(1, self._ticks + 1):
            share = tick / self._ticks
            wanted[:3, 3] = (1.0 - share) * before.position + share * self._target.position
            self._joints = self._inverse.step(self._joints, wanted, self._period_s).q
            self._robot.command_joints(self._joints)
            self._robot.step(self._period_s)


def observe(robot: SimulatedRobot, instruction: str, images: bool = True) -> Observation:
    """Return what ``robot``'s cameras and joints show now."""
    cameras = robot.profile.cameras
    return Observation(
        stamp_ns=round(robot.time_s * 1e9),
        images={camera.name: robot.render(camera.name) for camera in cameras} if images else BLANK,
        instruction=instruction,
        joint_positions=robot.joint_positions,
        pose=robot.tool,
        gripper=robot.gripper_opening,
    )


def rollout(
    robot: SimulatedRobot,
    policy: Policy,
    *,
    instruction: str | None = None,
    images: bool = True,
    max_steps: int = MAX_STEPS,
    on_step: Callable[[Observation, ActionChunk], None] | None = None,
) -> Rollout:
    """Run ``policy`` on ``robot`` as it stands, until success or ``max_steps`` actions.

    All actions of a chunk are executed before the next observation. ``instruction`` is that of the
    robot's episode unless told; ``images`` off saves the drawing for policies that do not look.
    ``on_step`` sees each observation with the chunk that was computed from it.
    """
    executor, started_s = ActionExecutor(robot), robot.time_s
    policy.reset()
    steps = 0
    while steps < max_steps and not robot.success:
        observation = observe(robot, instruction or robot.instruction, images)
        chunk = policy.infer(observation)
        if on_step is not None:
            on_step(observation, chunk)
        for action in chunk.actions[: max_steps - steps]:
            executor.execute(action)
            steps += 1
    return Rollout(robot.success, steps, robot.time_s - started_s)
