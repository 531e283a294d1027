"""``openvla estop`` and ``openvla hold``: what the line asks for, and what a stop must not import."""

import subprocess
import sys
import time

import pytest

from openvla_ros.cli.stop_now import plain_stop

PROGRAM = [sys.executable, "-c", "from openvla_ros.cli.main import main; main()"]
HEAVY = ("typer", "rich", "torch", "pydantic", "openvla_ros.profile")


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("estop", ("e_stop", "")),
        ("hold", ("hold", "")),
        ("estop --namespace left", ("e_stop", "left")),
        ("hold --namespace=left", ("hold", "left")),
        ("estop --keyboard", None),
        ("estop --help", None),
        ("estop --namespace --keyboard", None),
        ("home", None),
        ("", None),
    ],
)
def test_only_a_plain_stop_goes_the_short_way(line, asked):
    assert plain_stop(line.split()) == asked


def test_the_short_way_imports_nothing_heavy():
    pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")
    code = (
        "import sys; import openvla_ros.cli.main; import openvla_ros.programs.quick_stop;"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.ros
@pytest.mark.stops
@pytest.mark.parametrize(("verb", "service"), [("estop", "e_stop"), ("hold", "hold")])
def test_without_a_controller_it_says_that_nothing_stopped(ros_domain, verb, service):
    pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")
    since = time.monotonic()
    done = subprocess.run(
        [*PROGRAM, verb, "--namespace", "nobody"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1
    assert "NOT STOPPED" in done.stderr
    assert f"/nobody/controller/{service}" in done.stderr
    assert time.monotonic() - since < 60.0
