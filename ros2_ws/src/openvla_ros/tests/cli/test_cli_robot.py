"""``openvla check``, ``replay`` and the verbs against a running simulated robot, as a user calls them."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")
pytest.importorskip("mujoco", reason="needs the simulation (the extra [sim])")

from support.python_process import run_openvla
from support.sim_cell import Cell

from openvla_ros.profile import dump_profile
from openvla_ros.robot.tracking_report import expected_poses, tracking_report
from openvla_ros.values.geometry import Pose

pytestmark = pytest.mark.ros


@pytest.fixture(scope="module")
def cell(ros_domain) -> Iterator[Cell]:
    with Cell() as cell:
        cell.start_robot()
        yield cell


def findings(cell: Cell, profile: str, seconds: float = 4.0) -> tuple[int, list[dict]]:
    done = run_openvla("check", profile, "--use-sim-time", "--seconds", seconds, "--json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)["findings"]


def test_check_finds_nothing_wrong_with_the_robot_s_own_profile(cell):
    code, found = findings(cell, cell.robot)
    assert not [f for f in found if f["level"] == "error"]
    assert code == 0
    subjects = {f["subject"] for f in found}
    assert {"joint states", "joint names", "camera primary", "arm back end", "gripper back end"} <= subjects
    (frames,) = (f for f in found if f["subject"] == "frames")
    assert (frames["level"], frames["message"]) == ("not checked", "nobody publishes /tf or /tf_static")


def test_check_names_each_thing_that_is_wrong_and_its_remedy(cell, tmp_path):
    p = cell.profile
    wrong = dataclasses.replace(
        p,
        cameras=(dataclasses.replace(p.cameras[0], width=128, frame_id="elsewhere"),),
        gripper=dataclasses.replace(p.gripper, joint="no_finger"),
        limits=dataclasses.replace(p.limits, joint_upper=(9.0, *p.limits.joint_upper[1:])),
        arm_backend=dataclasses.replace(p.arm_backend, topic="/nowhere/joint_trajectory"),
    )
    path = tmp_path / "wrong.yaml"
    path.write_text(dump_profile(wrong), encoding="utf-8")
    code, found = findings(cell, str(path))
    assert code == 2
    text = {f["subject"]: f for f in found if f["level"] != "ok"}
    assert "no_finger" in text["joint names"]["message"]
    assert "waist" in text["limits"]["message"]
    assert "/nowhere/joint_trajectory" in text["arm back end"]["message"]
    camera = " ".join(f["message"] for f in found if f["subject"] == "camera primary")
    assert "64x64" in camera
    assert "elsewhere" in camera
    assert all(f["fix"] for f in text.values())


def test_check_of_a_robot_that_is_not_there_says_who_is_missing(cell):
    code, found = findings(cell, "sim_franka", 1.0)
    assert code == 2
    assert any("fr3_joint1" in f["message"] for f in found if f["subject"] == "joint names")


def test_the_verbs_call_the_controller_and_a_refusal_is_exit_code_1(cell):
    assert run_openvla("estop").returncode == 0
    assert cell.wait_for(state="e_stop")
    refused = run_openvla("neutral")
    assert refused.returncode == 1
    assert "emergency stop" in refused.stderr
    assert run_openvla("reset-estop").returncode == 0
    assert run_openvla("neutral").returncode == 0
    cell.wait_for(timeout_s=60, state="holding", settled=True)


def test_a_verb_without_a_controller_says_so(ros_domain):
    done = run_openvla("hold", "--namespace", "nobody_here")
    assert done.returncode == 1
    assert "/nobody_here/controller/hold" in done.stderr


def test_a_recorded_bridge_episode_is_replayed_and_its_error_reported(cell, bridge_folder: Path):
    done = run_openvla(
        "replay", bridge_folder, "--robot", cell.robot, "--start", "episode", "--use-sim-time", "--json"
    )
    assert done.returncode == 0, done.stderr + done.stdout
    result = json.loads(done.stdout)
    tracking = result["tracking"]
    assert tracking["steps"] > 5
    assert not result["reasons"]
    assert tracking["max_m"] < 0.03  # on a busy machine the controller falls behind and says so by a lag
    assert tracking["final_m"] < 0.003
    assert tracking["final_rad"] < 0.02
    # The real arm lagged behind its commands; the recorded end is not the commanded one.
    assert tracking["recorded_final_m"] < 0.05


def test_replay_refuses_an_episode_that_is_not_there(bridge_folder: Path):
    done = run_openvla("replay", bridge_folder, "--episode", 1000)
    assert done.returncode == 1
    assert "no episode 1000" in done.stderr


def test_the_report_finds_the_lag_and_the_error_of_a_motion_made_up_for_it(cell):
    space = cell.space
    actions = np.tile([0.02, 0.0, -0.01, 0.0, 0.0, 0.1, 1.0], (10, 1))
    start = Pose.from_euler([0.2, 0.0, 0.2], [0.0, 1.57, 0.0])
    expected = expected_poses(start, actions, space)
    times = np.arange(11) * 0.2
    lag, offset = 0.15, np.array([0.0, 0.003, 0.0])
    fine = np.arange(0.0, 3.0, 0.02)
    at = np.stack([np.interp(fine - lag, times, [p.position[i] for p in expected]) for i in range(3)], axis=1)
    measured = [Pose(p + offset, expected[-1].rotation) for p in at]
    report = tracking_report(expected, times, measured, fine)
    assert report.steps == 10
    assert report.lag_s == pytest.approx(lag, abs=0.021)
    assert report.mean_m == pytest.approx(0.003, abs=5e-4)
    assert report.final_m == pytest.approx(0.003, abs=1e-6)
    assert report.final_rad == pytest.approx(0.0, abs=1e-6)
    assert report.recorded_final_m is None
