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
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import rclpy
from soak_arm import STATES_HZ, Arm

from openvla_ros.bringup.dds import dds_environment
from openvla_ros.bringup.supervisor import child_environment
from openvla_ros.preprocessing.image_encoding import encode_jpeg
from openvla_ros.profile import RobotProfile, dump_profile, load_profile

CAMERA_HZ, INFERENCE_S = 30.0, 0.5
CAMERA_LEAST_HZ = 0.9 * CAMERA_HZ  # fewer images arrived: the machine cannot carry this load
IMAGES = 8
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
