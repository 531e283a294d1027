"""A policy of one's own: a plain class, put through the contract, then run on the simulated arm.

.venv/bin/python examples/write_a_policy.py

Nothing is inherited and nothing registered. Whatever has these five members is a policy: a network of
your own, a planner, or, as here, three lines of control that need no image.
"""

import numpy as np

import openvla_ros
from openvla_ros import ActionChunk, ActionSpace, Observation
from openvla_ros.conformance import check_policy
from openvla_ros.errors import PolicyError
from openvla_ros.sim.rollout import observe, rollout
from openvla_ros.sim.tasks import find_task
from openvla_ros.sim.world import SimulatedRobot

GOAL = np.array([0.30, 0.05, 0.12])  # metres in the base frame of the arm


class MoveToPoint:
    """Moves the tool towards GOAL, with the gripper open."""

    description = f"moves the tool to {GOAL.tolist()}"

    def __init__(self, space: ActionSpace) -> None:
        """``space`` is the robot's: names, units, frame, bounds and rate of its actions."""
        self.space = space

    def infer(self, observation: Observation) -> ActionChunk:
        """Return one step; raises ``PolicyError`` without the pose, never a made-up action."""
        if observation.pose is None:
            raise PolicyError(f"{self.description}: needs the pose of the tool")
        action = np.zeros((1, self.space.width))  # (T, D): one step of x, y, z, roll, pitch, yaw, gripper
        action[0, :3] = 0.5 * (GOAL - observation.pose.position)
        action[0, -1] = self.space.gripper_open
        # Larger steps than the robot's bounds would be refused by its controller.
        action = np.clip(action, self.space.lower, self.space.upper)
        return ActionChunk(action, observation.stamp_ns, self.space)

    def reset(self) -> None:
        """Do nothing: no state is kept between instructions."""

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


profile = openvla_ros.load_profile("sim_widowx")
with SimulatedRobot(profile, find_task("reach"), seed=0) as robot:
    # Raises ConformanceError, with what the contract says and what came instead, for the first thing
    # that is wrong: try it with the clip or the stamp left out.
    check_policy(MoveToPoint(profile.space()), observe(robot, robot.instruction))
    print("the contract is kept")

    # The actions go through the same controller, limits and safety checks as on a real arm. Our policy
    # does not look, so images are not drawn (images=False), and the task's own goal does not matter.
    before = np.linalg.norm(robot.tool.position - GOAL)
    rollout(robot, MoveToPoint(profile.space()), images=False, max_steps=15)
    after = np.linalg.norm(robot.tool.position - GOAL)
print(f"distance to the point: {1e3 * before:.0f} mm before, {1e3 * after:.0f} mm after 15 steps")
