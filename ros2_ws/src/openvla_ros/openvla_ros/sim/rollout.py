"""A policy and a simulated robot in one process, without messages: as fast as the machine allows.

The actions take the same path as on a robot, through the same ``ArmController``, including limits and
safety checks, but without messages and waiting. Used to generate demonstrations, to evaluate policies, and
by tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from openvla_ros.policy.protocol import Policy
from openvla_ros.robot.controller import ArmController
from openvla_ros.sim.tasks import MAX_STEPS
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.arrays import read_only
from openvla_ros.values.geometry import Pose
from openvla_ros.values.observation import Observation
from openvla_ros.values.time import nanoseconds
from openvla_ros.values.verdict import SafetyVerdict

# The image in rollouts of policies that use no images: an observation must contain one.
BLANK = {"blank": read_only(np.zeros((1, 1, 3), np.uint8))}


@dataclass(frozen=True)
class Rollout:
    """The result of one episode."""

    success: bool
    steps: int  # actions that were executed
    seconds: float  # of simulated time


class ActionExecutor:
    """Executes chunks on a simulated robot with the controller's core, tick by tick."""

    def __init__(self, robot: SimulatedRobot) -> None:
        self._robot = robot
        self._controller = ArmController(robot.profile)
        self._target: Pose | None = None

    @property
    def target(self) -> Pose:
        """The commanded tool pose, which the next action composes with."""
        return self._robot.tool if self._target is None else self._target

    def execute(self, chunk: ActionChunk) -> SafetyVerdict:
        """Execute ``chunk`` to the end of its last step; returns the controller's verdict on it."""
        self._observe()
        verdict = self._controller.accept(chunk, "policy", self._now_ns())
        space, period_s = chunk.space, self._controller.period_s
        for _ in range(round(len(chunk) * space.step_s / period_s)):
            self._tick()
        return verdict

    def _tick(self) -> None:
        output = self._controller.tick(self._now_ns())
        self._target = output.target
        if output.joint_positions is not None:
            self._robot.command_joints(output.joint_positions)
        if output.gripper_opening is not None:
            self._robot.command_gripper(output.gripper_opening)
        self._robot.step(self._controller.period_s)
        self._observe()

    def _observe(self) -> None:
        robot, now_ns = self._robot, self._now_ns()
        self._controller.observe(
            robot.joint_positions, robot.joint_velocities, robot.joint_efforts, now_ns, now_ns
        )

    def _now_ns(self) -> int:
        return nanoseconds(self._robot.time_s)


def observe(robot: SimulatedRobot, instruction: str, images: bool = True) -> Observation:
    """Return what a policy gets to see of a simulated robot now.

    Args:
        robot: The robot.
        instruction: The words of the observation.
        images: Whether to render the profile's cameras; else the only image is one black pixel.
    """
    cameras = robot.profile.cameras
    return Observation(
        stamp_ns=nanoseconds(robot.time_s),
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
    """Run ``policy`` on ``robot`` from its current state, until success or ``max_steps`` actions.

    All actions of a chunk are executed before the next observation.

    Args:
        robot: The robot; ``reset`` it first for a new episode.
        policy: The policy, for the robot's action space. It is reset first, and not closed.
        instruction: By default that of the robot's episode.
        images: False skips rendering, for policies that do not look at images.
        max_steps: How many actions the policy gets.
        on_step: Called with each observation and the chunk that was computed from it.

    Returns:
        Whether the episode's goal was reached, after how many actions, and in how much simulated time.

    Raises:
        PolicyError: The policy cannot act on what it sees.
        ModelOutputError: The model's output is not a valid action.
    """
    executor, started_s = ActionExecutor(robot), robot.time_s
    policy.reset()
    steps = 0
    while steps < max_steps and not robot.success:
        observation = observe(robot, instruction or robot.instruction, images)
        chunk = policy.infer(observation)
        if on_step is not None:
            on_step(observation, chunk)
        if len(chunk) > max_steps - steps:
            chunk = ActionChunk(chunk.actions[: max_steps - steps], chunk.observation_stamp_ns, chunk.space)
        executor.execute(chunk)
        steps += len(chunk)
    return Rollout(robot.success, steps, robot.time_s - started_s)
