"""Half an hour of a 30 Hz camera and a slow policy: nothing queues and memory stays flat.

The real nodes, as processes: a camera node plays pictures for ever, the policy node runs a policy
that takes longer than a camera period. The limit: memory grows by less than 1% over the second
half, and chunks are never older than one inference plus a few camera periods.

    python benchmarks/bench_soak.py [--minutes 30] [--quick]
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
from pathlib import Path

import numpy as np

INFERENCE_S = 0.3
PICTURES, SIZE = 8, (480, 640)
GROWTH_LIMIT = 0.01
AGE_LIMIT_S = 2 * INFERENCE_S

POLICY = f"""
import time
from openvla_ros.nodes import policy_node
from openvla_ros.policy.hold import HoldPolicy

class Slow(HoldPolicy):
    def infer(self, observation):
        time.sleep({INFERENCE_S})
        return super().infer(observation)

policy_node.load_policy = lambda options, profile, scene: Slow(profile.space())
policy_node.main()
"""


def resident_mb(process: subprocess.Popen) -> float:
    """Return the memory that a process occupies."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def start(arguments: list[str], environment: dict[str, str]) -> subprocess.Popen:
    """Start one node; its log goes nowhere."""
    return subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def listen(seconds: float, processes: dict[str, subprocess.Popen]) -> dict[str, object]:
    """Publish joint states and the instruction, note ages of chunks and memory of the processes."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import JointState
    from std_msgs.msg import String
    from trajectory_msgs.msg import JointTrajectory

    from openvla_ros.nodes import qos
    from openvla_ros.nodes.messages import from_stamp
    from openvla_ros.profile import load_profile

    profile = load_profile("sim_widowx")
    rclpy.init()
    node = rclpy.create_node("soak")
    ages: list[float] = []
    states = node.create_publisher(JointState, "joint_states", qos.STREAM_OUT)
    words = node.create_publisher(String, "instruction", qos.LATCHED)
    words.publish(String(data="wait"))
    names = [*profile.arm.joints, profile.gripper.joint]

    def feel() -> None:
        message = JointState(name=names, position=[0.0] * len(names))
        message.header.stamp = node.get_clock().now().to_msg()
        states.publish(message)

    def chunk(message: JointTrajectory) -> None:
        ages.append((node.get_clock().now().nanoseconds - from_stamp(message.header.stamp)) * 1e-9)

    node.create_timer(0.02, feel)
    node.create_subscription(JointTrajectory, "policy/action_chunk", chunk, qos.COMMAND)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    memory: dict[str, list[float]] = {name: [] for name in processes}
    end, next_look = time.monotonic() + seconds, time.monotonic()
    while time.monotonic() < end:
        executor.spin_once(timeout_sec=0.1)
        if time.monotonic() >= next_look:
            next_look += max(0.5, seconds / 200)
            for name, process in processes.items():
                memory[name].append(resident_mb(process))
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    return {"ages": ages, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--quick", action="store_true", help="half a minute")
    arguments = parser.parse_args()
    seconds = 30.0 if arguments.quick else 60.0 * arguments.minutes
    os.environ.setdefault("ROS_DOMAIN_ID", "76")
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    from openvla_ros.image_encoding import encode_jpeg
    from openvla_ros.supervisor import child_environment
    from openvla_ros.transport import dds_environment

    os.environ |= dds_environment(os.environ)
    environment = child_environment(os.environ, {})
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for i in range(PICTURES):
            picture = rng.integers(0, 256, (*SIZE, 3), np.uint8)
            (Path(folder) / f"{i}.jpg").write_bytes(encode_jpeg(picture, 90))
        camera = ["source:=images", f"path:={folder}", "loop:=true", "playback_rate_hz:=30.0"]
        camera = ["--ros-args", *(argument for p in camera for argument in ("-p", p))]
        processes = {
            "camera": start(
                [
                    "-m",
                    "openvla_ros.nodes.camera_node",
                    "--ros-args",
                    *(a for p in camera for a in ("-p", p)),
                ],
                environment,
            ),
            "policy": start(["-c", POLICY, "--ros-args", "-p", "rate_hz:=1000.0"], environment),
        }
        try:
            found = listen(seconds, processes)
        finally:
            for process in processes.values():
                process.send_signal(signal.SIGTERM)
            codes = {name: process.wait(20) for name, process in processes.items()}
    ages, memory = found["ages"], found["memory"]
    assert isinstance(ages, list)
    assert isinstance(memory, dict)
    growth = {n: m[-1] / m[len(m) // 2] - 1.0 for n, m in memory.items()}
    print(f"{seconds / 60:.1f} minutes, 30 Hz camera, {INFERENCE_S} s an inference: {len(ages)} chunks")
    print(f"{'process':<10} {'half way MB':>12} {'at the end MB':>14} {'growth':>8} {'exit code':>10}")
    for name, values in memory.items():
        half = values[len(values) // 2]
        print(f"{name:<10} {half:12.1f} {values[-1]:14.1f} {growth[name]:8.2%} {codes[name]:10}")
    oldest = max(ages) if ages else float("nan")
    print(f"age of a chunk: median {np.median(ages):.3f} s, oldest {oldest:.3f} s; limit {AGE_LIMIT_S} s")
    passed = (
        bool(ages) and max(growth.values()) < GROWTH_LIMIT and float(np.percentile(ages, 99)) < AGE_LIMIT_S
    )
    print(
        json.dumps(
            {
                "benchmark": "soak", "minutes": seconds / 60, "chunks": len(ages), "growth": growth,
                "age_p50_s": float(np.median(ages)), "age_p99_s": float(np.percentile(ages, 99)),
                "passed": passed,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
