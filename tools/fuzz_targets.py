"""The eight nodes that ``fuzz_nodes`` attacks: their processes, their profiles and a separate ROS domain."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from openvla_ros.bringup.dds import dds_environment
from openvla_ros.bringup.supervisor import child_environment
from openvla_ros.profile import RobotProfile, dump_profile, load_profile

STOP_S = 10.0


@dataclass(frozen=True)
class Target:
    """One node under test."""

    label: str
    module: str
    name: str
    namespace: str = "/"
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        """The node's name with its namespace."""
        return f"{self.namespace.rstrip('/')}/{self.name}"


def targets(robot: str, setpoint_robot: str, folder: Path) -> list[Target]:
    """Return the eight nodes, the robot's own first."""
    playing = {"source": "images", "path": folder / "images", "loop": True, "lock_step": True}
    sim = {"robot": robot}
    return [
        Target("simulation", "simulation_node", "simulation", parameters={**sim, "draw_cameras": False}),
        Target("controller", "controller_node", "controller", parameters=sim),
        Target("policy", "policy_node", "policy", parameters={**sim, "policy": "hold"}),
        Target("recorder", "recorder_node", "recorder", parameters={**sim, "folder": folder / "episodes"}),
        Target("teleop", "teleop_node", "teleop", parameters={**sim, "device": "gamepad"}),
        Target("simulated camera", "simulated_camera_node", "camera", parameters=sim),
        Target("camera", "camera_node", "camera", "/playing", {**sim, **playing}),
        Target("setpoints", "setpoint_node", "setpoints", "/setpoints", {"robot": setpoint_robot}),
    ]


class Process:
    """One node's process; its output goes to a file."""

    def __init__(self, target: Target, source: Path, log: Path) -> None:
        """Start ``target`` from the package in the folder ``source``."""
        environment = child_environment(os.environ, dds_environment(os.environ))
        environment["PYTHONPATH"] = str(source)
        arguments = [a for k, v in target.parameters.items() for a in ("-p", f"{k}:={v}")]
        command = [
            sys.executable, "-m", f"openvla_ros.nodes.{target.module}", "--ros-args",
            "-r", f"__ns:={target.namespace}", *arguments,
        ]  # fmt: skip
        self.log = log
        with log.open("a") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while it runs."""
        return self.process.poll()

    @property
    def last_words(self) -> str:
        """The last line of its output."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][:200] if lines else ""

    def stop(self) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


def take_domain(stack: ExitStack) -> None:
    """Set a ROS domain that no other run on this machine takes by the same rule."""
    for domain in random.Random(os.getpid()).sample(range(1, 101), 100):
        lock = stack.enter_context(
            (Path(tempfile.gettempdir()) / f"openvla_ros_domain_{domain}.lock").open("w")
        )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        return
    raise SystemExit("all 100 ROS domains are taken")


def prepare(folder: Path) -> tuple[RobotProfile, str, str]:
    """Write the profiles and images of the run; return the robot and the two profiles' files."""
    sim = load_profile("sim_widowx")
    cameras = tuple(replace(camera, width=64, height=64, rate_hz=5.0) for camera in sim.cameras)
    profile = replace(sim, cameras=cameras)
    backend = replace(profile.arm_backend, kind="forward_position", topic="forward_position/commands")
    files = {"robot": profile, "setpoints": replace(profile, arm_backend=backend)}
    for name, one in files.items():
        (folder / f"{name}.yaml").write_text(dump_profile(one), encoding="utf-8")
    (folder / "images").mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / "images" / f"{i}.png"), np.full((64, 64, 3), 40 * i, np.uint8))
    return profile, str(folder / "robot.yaml"), str(folder / "setpoints.yaml")
