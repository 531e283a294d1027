"""crisp_py, as its users run it, on the simulated Franka; prints a JSON line for each thing tried.

Runs beside this package's own Python; crisp_py and its message packages are on the path.
"""

import json
import os
import sys
import time

import numpy as np
from crisp_py.gripper.gripper import Gripper
from crisp_py.gripper.gripper_config import GripperConfig
from crisp_py.robot import Robot
from crisp_py.robot.robot_config import FrankaConfig

from openvla_ros.profile import load_profile
from openvla_ros.robot.kinematics.chain import KinematicChain

STEP = np.array([0.04, -0.06, 0.05])
WAIT_S = 8.0


def say(compared: str, passed: bool, detail: str) -> None:
    """Print one row."""
    print(json.dumps({"compared": compared, "passed": bool(passed), "detail": detail}), flush=True)


def within(distance, limit: float) -> float:
    """Wait until ``distance()`` is below ``limit``, or the time is over; return the last one."""
    end = time.monotonic() + WAIT_S
    while (last := distance()) >= limit and time.monotonic() < end:
        time.sleep(0.05)
    return last


def main() -> None:
    """Try what crisp_py's examples do."""
    profile = load_profile("sim_franka_crisp")
    chain = KinematicChain.from_profile(profile.arm)
    robot = Robot(robot_config=FrankaConfig())
    robot.wait_until_ready(timeout=30.0)
    pose, ours = robot.end_effector_pose, chain.forward(robot.joint_values.astype(float))
    off = np.linalg.norm(pose.position - ours.position)
    turned = np.linalg.norm(pose.orientation.as_matrix() - ours.rotation)
    say("current_pose and joint_states", off < 1e-3 and turned < 1e-3, f"{1e3 * off:.3f} mm, {turned:.1e}")

    switcher = robot.controller_switcher_client
    say("the manager's services", switcher.is_server_ready(), "list, load, configure, switch")
    listed = {c.name: c.state for c in switcher.get_controller_list()}
    say("list_controllers", listed.get("cartesian_impedance_controller") == "active", str(sorted(listed)))

    goal = robot.end_effector_pose.position + STEP
    robot.set_target(position=goal)
    moving = []

    def to_goal() -> float:
        moving.append(np.linalg.norm(robot.end_effector_twist.linear))
        return float(np.linalg.norm(robot.end_effector_pose.position - goal))

    left = within(to_goal, 2e-3)
    say("target_pose", left < 2e-3, f"{1e3 * left:.2f} mm left of {1e3 * np.linalg.norm(STEP):.0f}")
    say("current_twist", max(moving) > 0.02, f"up to {max(moving):.3f} m/s")

    robot.reset_targets()
    robot.wait_until_ready(timeout=10.0)
    switched = switcher.switch_controller("joint_impedance_controller")
    listed = {c.name: c.state for c in switcher.get_controller_list()}
    active = [name for name in ("cartesian_impedance_controller", "joint_impedance_controller")
              if listed[name] == "active"]  # fmt: skip
    say("switch_controller", switched and active == ["joint_impedance_controller"], f"active: {active}")
    joints = robot.joint_values + 0.15
    robot.set_target_joint(joints)
    left = within(lambda: float(np.abs(robot.joint_values - joints).max()), 5e-3)
    say("target_joint", left < 5e-3, f"{left:.4f} rad left of 0.15")

    finger = profile.gripper
    config = GripperConfig(min_value=finger.closed_m, max_value=finger.open_m, index=len(profile.arm.joints))
    gripper = Gripper(gripper_config=config)
    gripper.wait_until_ready(timeout=10.0)
    for wanted in (0.3, 0.9):
        gripper.set_target(wanted)
        left = within(lambda wanted=wanted: abs(float(gripper.value) - wanted), 0.03)
        say(f"gripper to {wanted}", left < 0.03, f"{float(gripper.raw_value) * 1e3:.1f} mm of the finger")
    robot.shutdown()
    sys.stdout.flush()
    os._exit(0)  # its threads still spin, which now and then ends the interpreter with a signal


if __name__ == "__main__":
    main()
