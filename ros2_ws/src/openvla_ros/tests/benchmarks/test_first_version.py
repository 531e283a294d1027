"""What the benchmarks give to version 0.1.0, which stands beside the present one, is what 0.1.0 can read."""

import os
import subprocess
import sys

import pytest
from support.shared_data import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
pytest.importorskip("first_version", reason="the benchmarks are not beside the package")
pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

import first_version
import stop_sessions


def test_the_first_version_reads_the_profile_of_the_stop_benchmark(tmp_path):
    _, robot = stop_sessions.slow_profile(tmp_path)
    controllers, missing = stop_sessions.sessions(tmp_path, robot)
    if missing:
        pytest.skip(missing)
    first = controllers[0]
    assert (first.name, first.sources) == ("0.1.0", tmp_path / first_version.PACKAGE)
    program = "import sys; from openvla_ros.profile import load_profile; print(load_profile(sys.argv[1]))"
    read = subprocess.run(
        [sys.executable, "-c", program, first.robot], env={**os.environ, "PYTHONPATH": str(first.sources)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert read.returncode == 0, read.stderr
    assert f"joint_velocity=({stop_sessions.SPEED_RAD_S}," in read.stdout
    assert f"wrench_topic='{stop_sessions.WRENCH_TOPIC}'" in read.stdout
