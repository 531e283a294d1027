"""``openvla up`` as a person uses it: quiet from start to Ctrl-C, and one of it for one robot."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")
pytest.importorskip("mujoco", reason="needs the simulation (the extra [sim])")

from std_srvs.srv import Trigger
from support.node_processes import Listener

pytestmark = pytest.mark.ros

UP = [
    sys.executable, "-c", "from openvla_ros.entry_points import openvla; openvla()",
    "up", "--robot", "sim_widowx", "--policy", "hold", "--no-cameras",
]  # fmt: skip


@contextmanager
def brought_up(*arguments: str):
    process = subprocess.Popen(
        [*UP, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ)
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_up_is_quiet_from_its_start_to_ctrl_c_and_a_second_one_is_refused(ros_domain):
    with Listener() as listener, brought_up() as first:
        neutral = listener.node.create_client(Trigger, "controller/neutral")
        connected = lambda: listener.node.count_subscribers("arm_controller/joint_trajectory")  # noqa: E731
        assert listener.spin_until(lambda: neutral.service_is_ready() and connected())

        second = subprocess.run(UP, capture_output=True, text=True, timeout=120, check=False)
        assert second.returncode == 1
        assert not second.stdout
        said = " ".join(second.stderr.split())
        assert "/controller, /policy, /simulation: already running in ROS domain" in said
        assert "set another ROS_DOMAIN_ID" in said

        asked = neutral.call_async(Trigger.Request())
        assert listener.spin_until(asked.done)
        assert asked.result().success
        listener.spin_for(1.0)  # the arm is commanded
        began = time.monotonic()
        first.send_signal(signal.SIGINT)
        output, _ = first.communicate(timeout=60)
    assert first.returncode == 0, output
    assert time.monotonic() - began < 12.0
    assert not re.search(r"WARN|ERROR|FATAL|Traceback|killed", output), output


@pytest.mark.parametrize("delay_s", [0.5, 3.0])
def test_ctrl_c_while_up_is_starting_ends_it_with_code_0(ros_domain, delay_s):
    with brought_up("--namespace", "starting") as process:
        time.sleep(delay_s)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert not re.search(r"ERROR|FATAL|Traceback|killed|exited with", output), output
