"""Every example runs as it is written, says what it should, and is short."""

import os
import re

import pytest
from PIL import Image
from support.python_process import run_python
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


def run(name, folder, *arguments):
    # This checkout's package, whichever one is installed.
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_SOURCE)}
    return run_python([EXAMPLES / f"{name}.py", *arguments], environment, folder, network=True)


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name, tmp_path):
    assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) < LONGEST_LINES
    done = run(name, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(SAYS[name], done.stdout, re.DOTALL), done.stdout


def test_an_image_of_ones_own_is_read_as_the_program_reads_it(tmp_path):
    Image.new("RGB", (64, 48), (90, 60, 30)).save(tmp_path / "mine.png")
    done = run("offline_inference", tmp_path, "mine.png", "lift the red cube")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "'lift the red cube', from an image of 64x48" in done.stdout
    Image.new("I;16", (64, 48)).save(tmp_path / "deep.png")
    done = run("offline_inference", tmp_path, "deep.png", "lift the red cube")
    assert "deep.png has more than 8 bits per sample" in done.stderr
