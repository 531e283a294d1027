"""The simulated robots serve what Interbotix's and Franka's own software serves, over DDS."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from action_msgs.msg import GoalStatus
from support import foreign_messages
from support.node_processes import NodeProcess

from openvla_ros.profile import load_profile
from openvla_ros.sim.franka_hand import ABORTED, FAILED

pytestmark = [pytest.mark.ros, pytest.mark.timeout(900)]  # the first run builds message packages
LAB = Path(__file__).resolve().parents[1] / "support" / "robot_services_process.py"
JOINTS = list(load_profile("sim_widowx_interbotix").arm.joints)
SUCCEEDED, CANCELED, FAILED_GOAL = (
    GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_CANCELED, GoalStatus.STATUS_ABORTED
)  # fmt: skip


def heard(ros_domain, robot, what):
    """Return what a lab's program was answered by the simulation of ``robot``, and the simulation's log."""
    env = {**foreign_messages.environment(), "ROS_DOMAIN_ID": str(ros_domain)}
    settings = {"robot": robot, "draw_cameras": False}
    with NodeProcess("openvla_ros.nodes.simulation_node", settings, environment=env) as simulation:
        lab = subprocess.run(
            [sys.executable, str(LAB), what],
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert lab.returncode == 0, lab.stderr[-3000:] + simulation.output[-3000:]
    told: dict = {}
    for line in lab.stdout.splitlines():
        told |= json.loads(line)
    return told, simulation.output


def test_xs_sdk_tells_its_motors_takes_modes_and_moves_as_they_say(ros_domain):
    told, log = heard(ros_domain, "sim_widowx_interbotix", "xs_sdk")
    assert told["arm"] == {
        "mode": "position", "profile": "velocity", "joints": JOINTS, "names": ["arm"],
        "indices": list(range(6)), "count": 6,
    }  # fmt: skip
    assert told["gripper"]["joints"] == ["left_finger"]  # a gripper's motor is told by its finger
    assert (told["gripper"]["mode"], told["gripper"]["indices"]) == ("pwm", [6])
    assert told["all"]["names"] == ["arm", "all"]
    # A refused request is answered all the same; why stands in the log alone.
    assert (told["refused"]["count"], told["refused"]["joints"]) == (0, [])
    assert "get_robot_info: there is no group 'leg'; there are arm, all" in log
    assert told["velocity"] == [500] * 6
    assert told["after"] == "time"
    assert told["arrived"]
    assert told["waist"] == pytest.approx(0.3, abs=0.02)
    assert told["closed"]
    assert told["torque"] == [0] * 6


def test_franka_ros2_moves_grasps_homes_stops_and_recovers(ros_domain):
    told, _ = heard(ros_domain, "sim_franka_ros2", "franka_ros2")
    assert told["moved"] == [SUCCEEDED, True]
    names, positions = told["fingers"]
    assert names == ["fr3_finger_joint1", "fr3_finger_joint2"]
    assert positions == pytest.approx([0.015, 0.015], abs=0.001)  # half of the width each
    assert told["too_wide"] == [FAILED_GOAL, False, FAILED]
    assert told["homed"] == [SUCCEEDED, True]
    assert told["preempted"] == [FAILED_GOAL, False, ABORTED]
    assert told["then"] == SUCCEEDED
    assert told["canceled"] == CANCELED
    assert told["command"] == [SUCCEEDED, pytest.approx(0.04, abs=0.002)]  # the goal's is half of it
    assert (told["stopped"], told["status"]) == (True, FAILED_GOAL)
    assert told["load"]
    assert told["behaviour"]
    assert told["recovered"] == SUCCEEDED
