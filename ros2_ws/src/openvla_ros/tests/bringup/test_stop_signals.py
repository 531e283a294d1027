"""A signal at any moment of a process's life ends it with exit code 0, whichever node it is."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from openvla_ros.bringup.dds import dds_environment
from openvla_ros.bringup.stop_signals import hold_back
from openvla_ros.bringup.supervisor import child_environment
from openvla_ros.driver_profile import ArmBackend
from openvla_ros.preprocessing.image_encoding import encode_png
from openvla_ros.profile import dump_profile, load_profile

pytestmark = pytest.mark.ros

NODES = (
    "camera_node", "controller_node", "policy_node", "recorder_node", "setpoint_node",
    "simulated_camera_node", "simulation_node", "teleop_node",
)  # fmt: skip
# From the first instant over the imports to a node that has begun.
DELAYS_S = (0.0, 0.03, 0.3, 0.8, 1.6, 3.0)


def parameters(node: str, folder: Path) -> dict[str, object]:
    """What lets the node begin on a machine without hardware."""
    match node:
        case "camera_node":
            (folder / "0.png").write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
            return {"source": "images", "path": folder, "loop": True}
        case "policy_node":
            return {"policy": "hold"}
        case "recorder_node":
            return {"folder": folder}
        case "setpoint_node":
            profile = load_profile("sim_widowx")
            backend = ArmBackend("forward_position", "arm_controller/commands")
            path = folder / "forward.yaml"
            path.write_text(dump_profile(replace(profile, arm_backend=backend)), encoding="utf-8")
            return {"robot": path}
        case "teleop_node":
            return {"device": "keyboard"}
        case _:
            return {}


def end_after(node: str, delay_s: float, number: int, folder: Path) -> tuple[int, str]:
    """Start the node as the supervisor does, send the signal, and return exit code and output."""
    arguments = [a for k, v in parameters(node, folder).items() for a in ("-p", f"{k}:={v}")]
    environment = child_environment(os.environ, dds_environment(os.environ))
    terminal, other_end = os.openpty()  # which the keyboard needs
    process = subprocess.Popen(
        [sys.executable, "-m", "openvla_ros.nodes", node, "--ros-args", *arguments],
        stdin=other_end, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment, preexec_fn=hold_back,
    )  # fmt: skip
    time.sleep(delay_s)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    os.close(terminal)
    os.close(other_end)
    return process.returncode, output


@pytest.mark.parametrize("node", NODES)
def test_a_signal_ends_every_node_in_order_whenever_it_comes(ros_domain, tmp_path, node):
    mine = NODES.index(node)
    delays = DELAYS_S[mine % 2 :: 2]  # half of the moments a node: together they see all
    for i, delay_s in enumerate(delays):
        number = (signal.SIGINT, signal.SIGTERM)[i % 2]
        code, output = end_after(node, delay_s, number, tmp_path)
        assert code == 0, f"{node} after {delay_s} s: {code}\n{output}"
        assert "Traceback" not in output
