"""A camera that was killed is started again by the package's own supervisor."""

import importlib.util
import subprocess
import sys

import pytest
from support.shared_data import REPOSITORY

BENCHMARK = REPOSITORY / "benchmarks" / "bench_restart.py"
# What takes a second or more to import, and what a camera does not need.
HEAVY = ("torch", "pyarrow", "h5py", "av", "mujoco", "transformers", "openvla_ros.data.datasets.open_dataset")


@pytest.mark.ros
@pytest.mark.timeout(240)
@pytest.mark.parametrize("source", ["images", "simulated"])
def test_a_killed_camera_is_started_again_and_seen(ros_domain, source):
    """How soon is what the benchmark measures; here the images must come again, after each kill."""
    pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")
    pytest.importorskip("mujoco", reason="needs the simulation (the extra [sim])")
    spec = importlib.util.spec_from_file_location("bench_restart", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert len(module.measure(source, kills=2, running_s=1.0)) == 2  # it ends the test where none comes


def test_a_camera_node_imports_nothing_that_it_does_not_need():
    pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")
    program = f"import sys, openvla_ros.nodes.camera_node; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"
