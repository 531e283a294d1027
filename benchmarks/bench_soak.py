"""Half an hour of a 30 Hz camera and a slow policy: nothing queues, memory and ages stay flat.

Real nodes, one process each: a camera that plays images at 30 Hz, the policy node with a policy that takes
half a second and is offered every image, and the controller that executes its chunks at 100 Hz. This
program takes the place of the arm: it publishes joint states and listens.

What is monitored, with limits that a single extra item in a queue would exceed:

- memory: the slope of each process's private memory over the second half. Private, because the segments
  that DDS shares between processes have a fixed size and count as resident in every process that touched
  them. Second half, because the allocator still grows until it has a slot for every image that is kept;
- pending: images received, minus those processed, replaced by a newer one, or refused. One may wait and
  one may be in progress;
- look: the age of an image when inference begins. Behind another image it would wait one inference longer;
- chunk: the age of the image when its chunk arrives. It would be two inferences if the image had waited;
- command: the age of the image at the first command of its chunk, as the controller reports it. It exceeds
  the chunk's age by the step that is finished first, at most the longest step.

A queue of constant length moves the median over its limit. A growing queue lifts the 99th percentile of the
last third above that of the first by one inference or more. A busy machine also delays single images; the
lateness of this program's own 50 Hz timer shows how busy the machine was.

    python benchmarks/bench_soak.py [--minutes 30] [--width 640] [--height 480] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.bringup.dds import dds_environment
from openvla_ros.bringup.supervisor import child_environment
from openvla_ros.preprocessing.image_encoding import encode_jpeg
from openvla_ros.profile import RobotProfile, dump_profile, load_profile
from openvla_ros.ros import qos
from openvla_ros.ros.messages import from_stamp

CAMERA_HZ, INFERENCE_S = 30.0, 0.5
CAMERA_LEAST_HZ = 0.9 * CAMERA_HZ  # fewer images arrived: the machine cannot carry this load
IMAGES = 8
STATES_HZ = 50.0
START_S = 180.0  # how long processes may take to start on a busy machine
# At this limit an eight-hour day adds less than 80 MB; leaking every image would add 99 GB an hour.
MEMORY_LIMIT_MB_PER_HOUR = 10.0
# In a shorter run the slope shows only the steps in which the allocator grows: printed, not judged.
MEMORY_JUDGED_S = 600.0
WARM_UP_SHARE, WARM_UP_S = 0.2, 120.0  # whichever is less
PENDING_LIMIT = 2
RISE_LIMIT_S = INFERENCE_S

POLICY = f"""
import time
from openvla_ros.nodes import policy_node
from openvla_ros.policy.hold import HoldPolicy

class Slow(HoldPolicy):
    begun, looks = 0, []

    def infer(self, observation):
        self.begun += 1
        self.looks.append((time.time_ns() - observation.stamp_ns) * 1e-9)
        time.sleep({INFERENCE_S})
        return super().infer(observation)

    def report(self):
        looks, self.looks = self.looks, []
        return {{"begun": str(self.begun), "looks_s": " ".join(map(str, looks))}}

policy_node.load_policy = lambda options, profile, scene: Slow(profile.space())
policy_node.main()
"""


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


def slow_profile(width: int, height: int) -> RobotProfile:
    """Return the simulated WidowX with this camera and an age limit that lets such a slow policy act."""
    profile = load_profile("sim_widowx")
    camera = replace(profile.cameras[0], width=width, height=height, rate_hz=CAMERA_HZ)
    state = replace(profile.state, rate_hz=STATES_HZ)
    control = replace(profile.control, chunk_max_age_s=4 * INFERENCE_S, hold_after_s=2 * INFERENCE_S)
    return replace(profile, cameras=(camera,), state=state, control=control)


def start(folder: Path, profile: RobotProfile) -> dict[str, subprocess.Popen[bytes]]:
    """Start the nodes; their logs go into ``folder``."""
    robot, images = folder / "soak_robot.yaml", folder / "images"
    robot.write_text(dump_profile(profile), encoding="utf-8")
    images.mkdir()
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        shape = profile.cameras[0].height // 8, profile.cameras[0].width // 8, 3
        image = rng.integers(0, 256, shape, np.uint8).repeat(8, 0).repeat(8, 1)
        (images / f"{i}.jpg").write_bytes(encode_jpeg(image, 90))
    camera = {"source": "images", "path": images, "loop": True, "playback_rate_hz": CAMERA_HZ}
    programs: dict[str, tuple[list[str], dict[str, object]]] = {
        "camera": (["-m", "openvla_ros.nodes.camera_node"], camera),
        "policy": (["-c", POLICY], {"rate_hz": 1000.0}),  # every image is offered
        "controller": (["-m", "openvla_ros.nodes.controller_node"], {}),
    }
    environment = child_environment(os.environ, {})
    processes = {}
    for name, (program, parameters) in programs.items():
        settings = {"robot": robot, **parameters}
        arguments = [a for key, value in settings.items() for a in ("-p", f"{key}:={value}")]
        with (folder / f"{name}.log").open("wb") as log:
            processes[name] = subprocess.Popen(
                [sys.executable, *program, "--ros-args", *arguments],
                env=environment, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
    return processes


def stop(processes: Mapping[str, subprocess.Popen[bytes]]) -> dict[str, int]:
    """Stop the nodes, the policy in the middle of an inference, and return their exit codes."""
    for process in processes.values():
        process.send_signal(signal.SIGTERM)
    codes = {}
    for name, process in processes.items():
        try:
            codes[name] = process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            codes[name] = process.wait()
    return codes


def report(arm: Arm, seconds: float, longest_step_s: float, codes: Mapping[str, int]) -> None:
    """Print the tables, the verdict and the JSON line."""
    warm_s = min(WARM_UP_SHARE * seconds, WARM_UP_S)
    third_s = (seconds - warm_s) / 3
    memory_is_judged = seconds >= MEMORY_JUDGED_S
    print(
        f"{seconds / 60:.1f} minutes; the policy node received {arm.camera_hz():.1f} images a second and "
        f"made {len(arm.chunks.values)} chunks of {INFERENCE_S} s; refused "
        f"{', '.join(f'{count} for {reason}' for reason, count in arm.refusals.items()) or 'none'}"
    )
    failed: list[str] = [f"{name} ended with {code}" for name, code in codes.items() if code != 0]

    if not arm.camera_hz() >= CAMERA_LEAST_HZ:
        failed.append(f"the camera came at {arm.camera_hz():.1f} Hz; the test asks for {CAMERA_HZ:.0f}")

    half_s = seconds / 2
    slopes = {name: series.slope_per_hour(half_s) for name, series in arm.memory.items()}
    header = f"{'warm MB':>8} {'half MB':>8} {'end MB':>8} {'MB/hour':>8} {'limit':>6} {'core':>6}"
    print(f"\n{'private memory':<16} {header}")
    for name, slope in slopes.items():
        memory = arm.memory[name]
        values = memory.between(warm_s, seconds)
        half = memory.between(half_s, seconds)[0]
        share = arm.cpu[name].slope_per_hour(warm_s) / 3600
        print(
            f"{name:<16} {values[0]:8.1f} {half:8.1f} {values[-1]:8.1f} {slope:8.2f} "
            f"{MEMORY_LIMIT_MB_PER_HOUR:6.1f} {share:6.1%}"
        )
        if memory_is_judged and slope > MEMORY_LIMIT_MB_PER_HOUR:
            failed.append(f"memory of {name}: {slope:.1f} MB/hour")
    if not memory_is_judged:
        print(f"not judged: shorter than {MEMORY_JUDGED_S / 60:.0f} minutes")

    print(f"\n{'age, p50 / p99 s':<16} {'first third':>15} {'last third':>15} {'p50 limit':>10}")
    limits = {"look": INFERENCE_S, "chunk": 2 * INFERENCE_S, "command": 2 * INFERENCE_S + longest_step_s}
    thirds = (warm_s, warm_s + third_s), (seconds - third_s, seconds)
    ages: dict[str, list[tuple[float, float]]] = {}
    for name, limit_s in (*limits.items(), ("timer", None)):
        ages[name] = [arm.age(name, *third) for third in thirds]
        (p50, p99), (late_p50, late_p99) = ages[name]
        print(
            f"{name:<16} {f'{p50:.3f} / {p99:.3f}':>15} {f'{late_p50:.3f} / {late_p99:.3f}':>15} "
            f"{'' if limit_s is None else f'{limit_s:.2f}':>10}"
        )
        if limit_s is None:
            continue
        if np.isnan([p50, late_p50]).any():
            failed.append(f"{name}: nothing was measured in one of the thirds")
            continue
        if not max(p50, late_p50) < limit_s:
            failed.append(f"{name}: p50 {max(p50, late_p50):.3f} s; limit {limit_s:.2f} s")
        if not late_p99 - p99 < RISE_LIMIT_S:
            failed.append(f"{name}: p99 rose by {late_p99 - p99:.3f} s; limit {RISE_LIMIT_S} s")

    waiting = np.array(arm.pending.values)
    # Refusals while no image arrives count below zero; a queue shows as a rise from there.
    pending = int((waiting - np.minimum.accumulate(waiting)).max())
    print(f"\npending images: never more than {pending}; limit {PENDING_LIMIT}")
    if pending > PENDING_LIMIT:
        failed.append(f"pending: {pending} images; limit {PENDING_LIMIT}")
    print("passed" if not failed else "FAILED: " + "; ".join(failed))
    print(
        json.dumps(
            {
                "benchmark": "soak", "minutes": seconds / 60, "camera_hz": arm.camera_hz(),
                "inference_s": INFERENCE_S, "chunks": len(arm.chunks.values), "memory_mb_per_hour": slopes,
                "memory_limit_mb_per_hour": MEMORY_LIMIT_MB_PER_HOUR, "memory_judged": memory_is_judged,
                "age_p50_p99_s_of_first_and_last_third": {
                    name: [[None if np.isnan(a) else a for a in third] for third in thirds]
                    for name, thirds in ages.items()
                }, "age_limits_s": limits, "pending": pending,
                "refusals": arm.refusals, "failed": failed, "passed": not failed,
            }
        )
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--width", type=int, default=640, help="of the images; a multiple of 8")
    parser.add_argument("--height", type=int, default=480, help="of the images; a multiple of 8")
    parser.add_argument("--quick", action="store_true", help="one minute; too short to judge memory")
    arguments = parser.parse_args()
    seconds = 60.0 * (1.0 if arguments.quick else arguments.minutes)
    os.environ.setdefault("ROS_DOMAIN_ID", "76")
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ |= dds_environment(os.environ)
    profile = slow_profile(arguments.width, arguments.height)
    rclpy.init()
    with tempfile.TemporaryDirectory() as folder:
        processes = start(Path(folder), profile)
        try:
            arm = Arm(profile, processes)
            arm.wait_for_commands()
            arm.measure(seconds)
        except BaseException:
            for name in processes:
                sys.stderr.write(f"--- {name}\n{(Path(folder) / f'{name}.log').read_text()[-2000:]}")
            raise
        finally:
            codes = stop(processes)
    arm.close()
    rclpy.try_shutdown()
    report(arm, seconds, profile.control.stretch_max / profile.action_space.rate_hz, codes)


if __name__ == "__main__":
    main()
