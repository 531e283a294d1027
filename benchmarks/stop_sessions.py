"""The controllers that ``bench_stop`` measures: their sources, their profile, their processes."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from first_version import NoHistoryError, profile_for, unpack

from openvla_ros.bringup.dds import dds_environment
from openvla_ros.bringup.supervisor import child_environment
from openvla_ros.profile import RobotProfile, dump_profile, load_profile

WRENCH_TOPIC = "wrench"
SPEED_RAD_S = 0.8  # slow, so that the arm is still cruising when the stop comes
PR_CAPBSET_DROP, CAP_IPC_LOCK, CAP_SYS_NICE = 24, 14, 23


def with_ordinary_priority() -> None:
    """Reset in a child, before exec, the priority that it inherits from this program."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.setpriority(os.PRIO_PROCESS, 0, 0)


def without_permissions() -> None:
    """Remove from a child, before exec, every permission that an ordinary user's process does not have."""
    with_ordinary_priority()
    library = ctypes.CDLL(None)
    for capability in (CAP_IPC_LOCK, CAP_SYS_NICE):
        library.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    for limit in (resource.RLIMIT_RTPRIO, resource.RLIMIT_NICE):
        resource.setrlimit(limit, (0, 0))


class Controller:
    """One controller process, running the sources at ``path``."""

    def __init__(self, path: Path, robot: str, permitted: bool) -> None:
        environment = child_environment(os.environ, dds_environment(os.environ))
        environment["PYTHONPATH"] = str(path)
        command = [sys.executable, "-m", "openvla_ros.nodes.controller_node"]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            [*command, "--ros-args", "-p", f"robot:={robot}"],
            env=environment, stdout=self._log, stderr=subprocess.STDOUT,
            preexec_fn=with_ordinary_priority if permitted else without_permissions,
        )  # fmt: skip

    def check(self) -> None:
        """Raise with what the process said if it has ended."""
        if self.process.poll() is not None:
            self._log.seek(0)
            raise RuntimeError(f"the controller ended with {self.process.returncode}:\n{self._log.read()}")

    def __enter__(self) -> Controller:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()


def slow_profile(folder: Path) -> tuple[RobotProfile, str]:
    """Return the simulated WidowX with a wrench, slow, and with limits that tolerate a starved controller."""
    profile = load_profile("sim_widowx")
    speeds = tuple(SPEED_RAD_S for _ in profile.limits.joint_velocity)
    profile = replace(
        profile,
        limits=replace(
            profile.limits, joint_velocity=speeds, wrench_n=100.0, wrench_nm=100.0, tracking_error_rad=3.0
        ),
        state=replace(profile.state, wrench_topic=WRENCH_TOPIC, max_age_s=10.0),  # the longest allowed
        arm_backend=replace(profile.arm_backend, lookahead_s=0.2),
    )
    path = folder / "slow.yaml"
    path.write_text(dump_profile(profile), encoding="utf-8")
    return profile, str(path)


@dataclass(frozen=True)
class Session:
    """A controller to measure: the sources that it runs, its profile, and whether it has permissions."""

    name: str
    sources: Path
    robot: str
    permitted: bool = True


def sessions(folder: Path, robot: str) -> tuple[list[Session], str | None]:
    """Return the controllers to measure with the profile ``robot``, and why 0.1.0 is not among them."""
    present = Path(__file__).resolve().parent.parent / "ros2_ws/src/openvla_ros"
    found = [
        Session("present", present, robot),
        Session("present, no permissions", present, robot, permitted=False),
    ]
    try:
        sources = unpack(folder)
    except NoHistoryError as error:
        return found, str(error)
    of_then = folder / "first_version.yaml"
    values = yaml.safe_load(Path(robot).read_text(encoding="utf-8"))
    of_then.write_text(yaml.safe_dump(profile_for(sources, values)), encoding="utf-8")
    return [Session("0.1.0", sources, str(of_then)), *found], None
