"""The arm's place in the soak benchmark: publishes joint states, listens, and watches the nodes' memory."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.profile import RobotProfile
from openvla_ros.ros import qos
from openvla_ros.ros.messages import from_stamp

STATES_HZ = 50.0
START_S = 180.0  # how long processes may take to start on a busy machine


@dataclass
class Series:
    """Values with their times, in seconds since the measurement began."""

    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, at_s: float, *values: float) -> None:
        """Record values seen at ``at_s``."""
        self.times += [at_s] * len(values)
        self.values += values

    def between(self, begin_s: float, end_s: float) -> np.ndarray:
        """Return the values seen from ``begin_s`` until ``end_s``."""
        times = np.array(self.times)
        return np.array(self.values)[(begin_s <= times) & (times < end_s)]

    def slope_per_hour(self, begin_s: float) -> float:
        """Return the slope of the least-squares line from ``begin_s`` on."""
        times, values = np.array(self.times), np.array(self.values)
        late = times >= begin_s
        return float(np.polyfit(times[late] / 3600.0, values[late], 1)[0])


class Arm:
    """Publishes constant joint states, gives the instruction, and records what comes back."""

    def __init__(self, profile: RobotProfile, processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
        self._processes, self._began_s = processes, 0.0
        self.memory, self.cpu = ({name: Series() for name in processes} for _ in range(2))
        self.looks, self.chunks, self.pending, self.lateness = Series(), Series(), Series(), Series()
        self.commands, self.command_p99 = Series(), Series()  # measured by the controller
        self._felt_s = time.monotonic()
        self.camera: list[tuple[float, int]] = []
        self.refusals: Counter[str] = Counter()
        self.node = rclpy.create_node("soak")
        self._joints = [*profile.arm.joints, profile.gripper.joint]
        self._positions = [*profile.arm.neutral, profile.gripper.open_m]
        self._states = self.node.create_publisher(JointState, "joint_states", qos.STREAM_OUT)
        self._words = self.node.create_publisher(String, "instruction", qos.LATCHED)
        self.node.create_timer(1.0 / STATES_HZ, self._feel)
        self.node.create_subscription(JointTrajectory, "policy/action_chunk", self._chunk, qos.COMMAND)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnostics, qos.DIAGNOSTICS)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)

    def wait_for_commands(self) -> None:
        """Spin until the controller has executed a chunk, then begin to measure."""
        end_s = time.monotonic() + START_S
        told = False
        while not self.commands.values:
            if not told and self._words.get_subscription_count() >= 2:  # both of the policy's
                self._words.publish(String(data="wait"))
                told = True
            if time.monotonic() > end_s or any(p.poll() is not None for p in self._processes.values()):
                codes = {name: p.poll() for name, p in self._processes.items()}
                raise SystemExit(f"no command within {START_S:.0f} s; exit codes {codes}")
            self._executor.spin_once(timeout_sec=0.1)
        self._began_s = time.monotonic()
        for series in self._series():
            series.times.clear()
            series.values.clear()
        self.camera.clear()

    def measure(self, seconds: float) -> None:
        """Spin for ``seconds``; sample the memory once a second."""
        next_look_s = 0.0
        while (now_s := self._now_s()) < seconds:
            self._executor.spin_once(timeout_sec=0.1)
            if now_s >= next_look_s:
                next_look_s = now_s + 1.0
                for name, process in self._processes.items():
                    self.memory[name].add(now_s, private_mb(process))
                    self.cpu[name].add(now_s, cpu_s(process))

    def close(self) -> None:
        """Destroy the node."""
        self._executor.shutdown()
        self.node.destroy_node()

    def _series(self) -> tuple[Series, ...]:
        return self.looks, self.chunks, self.commands, self.command_p99, self.pending, self.lateness

    def _now_s(self) -> float:
        return time.monotonic() - self._began_s

    def _feel(self) -> None:
        message = JointState(name=self._joints, position=self._positions)
        message.header.stamp = self.node.get_clock().now().to_msg()
        self._states.publish(message)
        before_s, self._felt_s = self._felt_s, time.monotonic()
        self.lateness.add(self._now_s(), max(0.0, self._felt_s - before_s - 1.0 / STATES_HZ))

    def _chunk(self, message: JointTrajectory) -> None:
        age_ns = self.node.get_clock().now().nanoseconds - from_stamp(message.header.stamp)
        self.chunks.add(self._now_s(), age_ns * 1e-9)

    def _diagnostics(self, message: DiagnosticArray) -> None:
        found = {status.name: {v.key: v.value for v in status.values} for status in message.status}
        command = found.get("controller: camera to command", {})
        if "p99_ms" in command:
            self.commands.add(self._now_s(), float(command["p50_ms"]) * 1e-3)
            self.command_p99.add(self._now_s(), float(command["p99_ms"]) * 1e-3)
        task = found.get("policy: task", {})
        if "begun" in task:
            self._note_policy(task, found["policy: camera primary"], found["policy: refusals"])

    def _note_policy(
        self, task: Mapping[str, str], camera: Mapping[str, str], refusals: Mapping[str, str]
    ) -> None:
        now_s, received = self._now_s(), int(camera["received"])
        self.refusals = Counter({reason: int(count) for reason, count in refusals.items()})
        self.looks.add(now_s, *map(float, task["looks_s"].split()))
        self.camera.append((now_s, received))
        self.pending.add(
            now_s, received - int(task["superseded"]) - int(task["begun"]) - self.refusals.total()
        )

    def age(self, name: str, begin_s: float, end_s: float) -> tuple[float, float]:
        """Return median and 99th percentile of ``name`` between two times, s; nan if nothing was measured."""
        if name == "command":  # the newest of the windows that the controller has measured
            windows = self.commands.between(begin_s, end_s), self.command_p99.between(begin_s, end_s)
            p50, p99 = (float(window[-1]) if len(window) else float("nan") for window in windows)
            return p50, p99
        values = {"look": self.looks, "chunk": self.chunks, "timer": self.lateness}[name].between(
            begin_s, end_s
        )
        if not len(values):
            return float("nan"), float("nan")
        return float(np.median(values)), float(np.percentile(values, 99))

    def camera_hz(self) -> float:
        """Return how many images a second the policy node received."""
        (first_s, first), (last_s, last) = self.camera[0], self.camera[-1]
        return (last - first) / (last_s - first_s)


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def private_mb(process: subprocess.Popen[bytes]) -> float:
    """Return the private memory of a process."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024 / 1e6
