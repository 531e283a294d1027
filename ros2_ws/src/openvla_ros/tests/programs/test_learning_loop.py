"""The loop as one command, as small as it gets: everything runs, nothing is claimed of the result."""

import json
import subprocess
import sys

import pytest
from support.tiny_training_run import make_base

from openvla_ros.errors import InvalidValueError
from openvla_ros.evaluation.wilson import SuccessRate
from openvla_ros.manifest import Manifest, write_manifest
from openvla_ros.model.inference.checkpoint_files import read_transform
from openvla_ros.preprocessing.dataset_statistics import read_statistics
from openvla_ros.profile import load_profile

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")
pytest.importorskip("mujoco", reason="needs the extra [sim]")

from openvla_ros.data.bags.bag_source import BagSource
from openvla_ros.programs.learning_loop import LoopRequest

PROGRAM = "from openvla_ros.cli.main import main; main()"


def make_simulation_base(folder):
    """A tiny base with random weights that says it was made for the simulated WidowX."""
    make_base(folder)
    profile = load_profile("sim_widowx")
    statistics = read_statistics(folder / "dataset_statistics.json")["base"]
    write_manifest(
        folder,
        Manifest(
            base_model="tiny", base_revision=None, adapter_sha256=None, dataset_key="base",
            statistics=statistics, action_space=profile.space(), prompt_style="openvla",
            image_transform=read_transform(folder), center_crop=False, cameras=("primary",),
            robot=profile.name,
        ),
    )  # fmt: skip
    return folder


def request(folder, **changes):
    values = {
        "base": "b", "task": "lift_purple", "demonstrations": 1, "steps": 1, "batch_size": 1,
        "corrections": 0, "trials": 1, "live_trials": 1, "robot": "sim_widowx", "folder": folder,
    }  # fmt: skip
    return LoopRequest(**{**values, **changes})


def test_a_loop_on_what_the_base_knows_proves_nothing_and_is_refused(tmp_path):
    with pytest.raises(InvalidValueError, match="task 'lift' is one that the base was trained on"):
        request(tmp_path, task="lift")
    with pytest.raises(InvalidValueError, match="at least 1"):
        request(tmp_path, trials=0)


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_command_records_learns_swaps_and_measures(tmp_path, ros_domain):
    base, folder = make_simulation_base(tmp_path / "base"), tmp_path / "loop"
    options = {
        "base": base, "demonstrations": 3, "steps": 5, "batch-size": 4, "corrections": 1, "trials": 1,
        "live-trials": 1, "output": folder,
    }  # fmt: skip
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "loop", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    for name in ("before", "after", "live_before", "live_after", "corrected"):
        rate = SuccessRate(said[name]["successes"], said[name]["trials"])
        assert said[name]["interval"] == pytest.approx(rate.interval())
    assert said["demonstrations"] == 3
    assert (folder / "index.html").is_file()
    corrected = BagSource(folder / "corrections")[0]
    assert corrected.intervention.any()  # what a random network did before may have been refused
