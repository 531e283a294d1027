"""``openvla new-robot`` as a person calls it: the file, what is printed, and the exit code."""

import json
from functools import partial

from support.made_urdf import arm_of_six, mesh
from support.python_process import run_openvla

from openvla_ros.integrity.placeholders import MARK

new_robot = partial(run_openvla, "new-robot")


def test_it_writes_the_profile_and_says_what_is_open_and_what_is_not_checked(tmp_path):
    urdf = arm_of_six(tmp_path, {"link3": mesh("missing.stl")})
    output = tmp_path / "arm.yaml"
    done = new_robot(urdf, "--output", output)
    assert done.returncode == 0, done.stderr
    assert f"{output}: 6 joints from base to tool" in done.stdout
    assert (
        "link3 is not checked for collisions with the arm or the table: mesh missing.stl does not exist"
        in done.stdout
    )
    assert "  arm_backend.topic: FILL IN" in done.stdout
    assert MARK in output.read_text()
    again = new_robot(urdf, "--output", output)
    assert again.returncode == 1
    assert "already exists" in again.stderr
    assert "Traceback" not in again.stderr


def test_it_prints_json_and_names_the_choices_where_the_tool_is_not_clear(tmp_path):
    output = tmp_path / "arm.yaml"
    refused = new_robot("panda.urdf", "--output", output)
    assert refused.returncode == 1
    assert "choose the link that is the tool with --tool" in refused.stderr
    assert not output.exists()
    done = new_robot("panda.urdf", "--tool", "panda_hand_tcp", "--output", output, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["profile"] == str(output)
    assert any(line.startswith("limits.joint_acceleration: FILL IN") for line in answer["fill_in"])
    assert answer["not_checked"] == {}
