"""Every example runs as it is written, says what it should, and is short."""

import os
import re
import subprocess
import sys

import pytest
from support.shared_data import PACKAGE_SOURCE, REPOSITORY

EXAMPLES = REPOSITORY / "examples"
LONGEST_LINES = 80
SAYS = {
    "offline_inference": r"x: [+-]0\.\d{4} m .*probability 0\.\d\d",
    "read_a_bag": r"bag with 2 episodes\n +0 +\d+ steps .*success",
    "train_your_own_model": r"\d+ steps in 12 episodes, 0 left out\n.*gripper: off by 0\.\d+",
    "write_a_policy": r"the contract is kept\n.*231 mm before, \d mm after 15 steps",
    "add_a_robot": r"a mistake is named: .*joint_velocity has 5 values for 6 joints",
    "drive_the_controller": r"half a metre in one step: hold: step_bounds \(x of step 0 is 0\.5",
    "compare_two_checkpoints": r"small_base: [34] of 4 .*\n +hold: 0 of 4 \(0%, 95% interval 0% to 49%\)",
}


def test_every_example_is_tried():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SAYS)


def test_the_page_about_python_names_every_example():
    page = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\(\.\./examples/(\w+)\.py\)", page)) == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name, tmp_path):
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) < LONGEST_LINES
    # This checkout's package, whichever one is installed.
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_SOURCE)}
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, check=False, timeout=150,
        cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(SAYS[name], done.stdout, re.DOTALL), done.stdout
