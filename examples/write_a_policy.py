"""Write your own policy: a plain class, checked against its contract, then run on the simulated arm.

.venv/bin/python examples/write_a_policy.py

There is nothing to inherit or register. Any class with these five members is a policy: your own network,
a planner, or, as here, three lines of control that need no image.
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
        """``space`` is the robot's action space: names, units, frame, bounds and rate."""
        self.space = space

    def infer(self, observation: Observation) -> ActionChunk:
        """Return one step; raises ``PolicyError`` if the pose is missing, instead of inventing an action."""
        if observation.pose is None:
            raise PolicyError(f"{self.description}: needs the pose of the tool")
        action = np.zeros((1, self.space.width))  # (T, D): one step of x, y, z, roll, pitch, yaw, gripper
        action[0, :3] = 0.5 * (GOAL - observation.pose.position)
        action[0, -1] = self.space.gripper_open
        # The robot's controller refuses steps beyond its bounds.
        action = np.clip(action, self.space.lower, self.space.upper)
        return ActionChunk(action, observation.stamp_ns, self.space)

    def reset(self) -> None:
        """Do nothing: no state is kept between instructions."""

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


profile = openvla_ros.load_profile("sim_widowx")
with SimulatedRobot(profile, find_task("reach"), seed=0) as robot:
    # Raises ConformanceError for the first violation, with what the contract says and what came instead.
    # Try it without the clip or with a wrong stamp.
    check_policy(MoveToPoint(profile.space()), observe(robot, robot.instruction))
    print("the contract is kept")

    # The actions pass the same controller, limits and safety checks as on a real arm. This policy uses no
    # images, so none are rendered (images=False), and the task's own goal does not matter.
    before = np.linalg.norm(robot.tool.position - GOAL)
    rollout(robot, MoveToPoint(profile.space()), images=False, max_steps=15)
    after = np.linalg.norm(robot.tool.position - GOAL)
print(f"distance to the point: {1e3 * before:.0f} mm before, {1e3 * after:.0f} mm after 15 steps")
