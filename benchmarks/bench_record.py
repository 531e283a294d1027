"""Recording under load, beside other writers: drops and CPU of the recorder node, and writing rates.

Load: a second process publishes three 640x480 cameras at 30 Hz, raw, and joint states at 100 Hz
over DDS; the recorder node writes them into a bag, raw and as JPEG. The goals: nothing dropped, and
less than one core. ``asked`` is the number of messages at these rates, ``sent`` what the other process
managed to send on this machine, ``dropped`` what is not in the bag, ``told`` what the recorder itself
reports as missing. A third run suspends the recorder's process for half a second every two seconds.

Writers: the same messages, from memory, through this package's bag writer, ``mcap.Writer`` and
``rosbags``, in megabytes per CPU second; also LeRobot's recorder if OPENVLA_ROS_LEROBOT_PYTHON names a
Python that has it.

    .venv/bin/python benchmarks/bench_record.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from openvla_ros.data.bags import cdr
from openvla_ros.data.bags.message_definition import message_definition
from openvla_ros.data.bags.rosbag2_writer import BagWriter, Topic
from openvla_ros.profile import RobotProfile, dump_profile, load_profile

WIDTH, HEIGHT, CAMERAS, IMAGE_HZ, STATE_HZ = 640, 480, 3, 30.0, 100.0
STALL_S, STALL_EVERY_S = 0.5, 2.0
GOAL_CORES = 1.0
LEROBOT_PYTHON = "OPENVLA_ROS_LEROBOT_PYTHON"
JOINTS = "sensor_msgs/msg/JointState"


def bench_profile(image_format: str) -> RobotProfile:
    profile = load_profile("sim_widowx")
    camera = replace(profile.cameras[0], width=WIDTH, height=HEIGHT, rate_hz=IMAGE_HZ)
    cameras = tuple(
        replace(camera, name=f"camera{i}", topic=f"camera/camera{i}/image_raw") for i in range(CAMERAS)
    )
    return replace(profile, cameras=cameras, recording=replace(profile.recording, image_format=image_format))


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def timed(into: dict[str, float]) -> Iterator[None]:
    wall, cpu = time.monotonic(), cpu_seconds()
    yield
    into["wall_s"], into["cpu_s"] = time.monotonic() - wall, cpu_seconds() - cpu


# Load: the node under 3 cameras


def noise_image(generator: np.random.Generator) -> np.ndarray:
    """An image of smooth colours with fine noise: about as hard to compress as a camera image."""
    coarse = generator.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + generator.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)


def stall(process: int, until_s: float) -> None:
    """Suspend ``process`` now and then, as a busy machine does."""
    while time.monotonic() + STALL_EVERY_S < until_s:
        time.sleep(STALL_EVERY_S - STALL_S)
        os.kill(process, signal.SIGSTOP)
        time.sleep(STALL_S)
        os.kill(process, signal.SIGCONT)


def publish(seconds: float) -> None:
    """The other process: publishes the load; every message carries a sequence number."""
    import rclpy
    from sensor_msgs.msg import Image, JointState
    from std_msgs.msg import String

    from openvla_ros.ros import qos
    from openvla_ros.ros.messages import to_image, to_stamp

    rclpy.init()
    node = rclpy.create_node("load")
    profile = bench_profile("raw")
    rng = np.random.default_rng(0)
    messages = [to_image(noise_image(rng), 0, "camera") for _ in range(4)]
    images = [node.create_publisher(Image, camera.topic, qos.IMAGE_OUT) for camera in profile.cameras]
    states = node.create_publisher(JointState, "joint_states", qos.STREAM_OUT)
    words = node.create_publisher(String, "instruction", qos.LATCHED)
    words.publish(String(data="measure"))
    state = JointState(name=[*profile.arm.joints, profile.gripper.joint], position=[0.0] * 7)
    sent = dict.fromkeys([*(camera.name for camera in profile.cameras), "states"], 0)
    begun = time.monotonic()
    while (now := time.monotonic() - begun) < seconds:
        for camera, publisher in zip(profile.cameras, images, strict=True):
            if now * IMAGE_HZ >= sent[camera.name]:
                message = messages[sent[camera.name] % len(messages)]
                message.header.stamp = to_stamp(node.get_clock().now().nanoseconds)
                message.header.frame_id = str(sent[camera.name])  # counts, so that a loss shows
                publisher.publish(message)
                sent[camera.name] += 1
        if now * STATE_HZ >= sent["states"]:
            state.position[0] = float(np.sin(now))
            state.header.frame_id = str(sent["states"])
            state.header.stamp = to_stamp(node.get_clock().now().nanoseconds)
            states.publish(state)
            sent["states"] += 1
        time.sleep(0.001)
    time.sleep(0.5)
    node.destroy_node()
    rclpy.shutdown()


def bench_node(image_format: str, seconds: float, folder: Path, stalled: bool = False) -> dict[str, Any]:
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    from openvla_ros.data.bags.bag_reader import BagReader
    from openvla_ros.nodes.recorder_node import RecorderNode

    folder.mkdir()
    robot = folder / "robot.yaml"
    robot.write_text(dump_profile(bench_profile(image_format)), encoding="utf-8")
    rclpy.init()
    node = RecorderNode(robot=str(robot), folder=str(folder / "set"))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    load = subprocess.Popen(
        [sys.executable, __file__, "--publish", str(seconds + 6)], stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 20
    while node.missing():
        executor.spin_once(timeout_sec=0.1)
        if time.monotonic() > deadline:
            raise RuntimeError(f"no load: {node.missing()}")
    node.begin()
    usage: dict[str, float] = {}
    end = time.monotonic() + seconds
    command = [sys.executable, __file__, "--stall", str(os.getpid()), str(end)]
    staller = subprocess.Popen(command) if stalled else None
    with timed(usage):
        while time.monotonic() < end:
            executor.spin_once(timeout_sec=0.1)
    episode = node.finish("success")
    if staller is not None:
        staller.wait()
    load.communicate(timeout=60)
    node.stop()
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
    expected, missing = 0, {}
    with BagReader(episode) as reader:
        for role in [f"camera/camera{i}/image_raw" for i in range(CAMERAS)] + ["joint_states"]:
            counted = [int(item.value.header.frame_id) for item in reader.messages(role)]
            due = counted[-1] - counted[0] + 1
            expected += due
            missing[role] = due - len(set(counted))
        quality = reader.metadata.quality
        told = sum(int(n) for key, n in quality.items() if key.endswith((" undelivered", " unstored")))
        megabytes = sum(f.stat().st_size for f in episode.iterdir()) / 1e6
    return {
        "seconds": seconds,
        "asked": round(seconds * (CAMERAS * IMAGE_HZ + STATE_HZ)),
        "sent": expected,
        "dropped": sum(missing.values()),
        "told": told,
        "dropped_by_stream": missing,
        "megabytes_per_s": megabytes / seconds,
        "cores": usage["cpu_s"] / usage["wall_s"],
    }


# Writers alone


def bench_messages(count: int) -> list[tuple[str, bytes]]:
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_KILTED)
    stamp = store.types["builtin_interfaces/msg/Time"](1, 0)
    header = store.types["std_msgs/msg/Header"](stamp, "camera")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, HEIGHT * WIDTH * 3, dtype=np.uint8)
    image = store.types[cdr.IMAGE](header, HEIGHT, WIDTH, "rgb8", 0, 3 * WIDTH, pixels)
    empty = np.zeros(0)
    state = store.types[JOINTS](header, [f"joint{i}" for i in range(7)], np.zeros(7), empty, empty)
    serialised = bytes(store.serialize_cdr(image, cdr.IMAGE))
    joints = bytes(store.serialize_cdr(state, JOINTS))
    found = []
    for i in range(count):
        found += [(f"/camera{k}", serialised) for k in range(CAMERAS)]
        found += [("/joint_states", joints)] * (3 if i % 3 else 4)  # 100 Hz beside 30
    return found


def write_ours(folder: Path, messages: list[tuple[str, bytes]]) -> None:
    writer = BagWriter(folder / "ours")
    numbers = {
        name: writer.add_topic(Topic(name, kind, message_definition(kind))) for name, kind in kinds().items()
    }
    for i, (name, data) in enumerate(messages):
        writer.write(numbers[name], data, i, i)
    writer.close()


def write_mcap(folder: Path, messages: list[tuple[str, bytes]]) -> None:
    from mcap.writer import CompressionType, Writer

    with (folder / "peer.mcap").open("wb") as file:
        writer = Writer(file, compression=CompressionType.NONE)
        writer.start("ros2")
        numbers = {}
        for name, kind in kinds().items():
            schema = writer.register_schema(kind, "ros2msg", message_definition(kind).encode())
            numbers[name] = writer.register_channel(name, "cdr", schema)
        for i, (name, data) in enumerate(messages):
            writer.add_message(numbers[name], i, data, i)
        writer.finish()
        file.flush()
        os.fsync(file.fileno())


def write_rosbags(folder: Path, messages: list[tuple[str, bytes]]) -> None:
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_KILTED)
    with Writer(folder / "rosbags", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {
            name: writer.add_connection(name, kind, typestore=store) for name, kind in kinds().items()
        }
        for i, (name, data) in enumerate(messages):
            writer.write(connections[name], i, data)
    (path,) = (folder / "rosbags").glob("*.mcap")
    with path.open("rb") as file:
        os.fsync(file.fileno())


def kinds() -> dict[str, str]:
    return {**{f"/camera{i}": cdr.IMAGE for i in range(CAMERAS)}, "/joint_states": JOINTS}


def bench_writer(write: Callable[[Path, list[tuple[str, bytes]]], None], count: int, rounds: int) -> float:
    """Return megabytes per CPU second, the best of ``rounds``."""
    messages = bench_messages(count)
    megabytes = sum(len(data) for _, data in messages) / 1e6
    rates = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            usage: dict[str, float] = {}
            with timed(usage):
                write(Path(folder), messages)
            rates.append(megabytes / usage["cpu_s"])
    return max(rates)


# LeRobot's recorder: add_frame and save_episode with three 640x480 image features
LEROBOT = """
import json, resource, sys, tempfile, time
import numpy as np
try:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
except ImportError:
    from lerobot.common.datasets.lerobot_dataset import LeRobotDataset
frames, height, width, cameras = (int(a) for a in sys.argv[1:5])
features = {f"observation.images.camera{i}": {"dtype": "image", "shape": (height, width, 3),
    "names": ["height", "width", "channels"]} for i in range(cameras)}
features["observation.state"] = {"dtype": "float32", "shape": (7,), "names": None}
features["action"] = {"dtype": "float32", "shape": (7,), "names": None}
rng = np.random.default_rng(0)
images = [rng.integers(0, 255, (height, width, 3), dtype=np.uint8) for _ in range(4)]
with tempfile.TemporaryDirectory() as folder:
    data = LeRobotDataset.create("bench/record", 30, features, root=folder + "/set", use_videos=False)
    def usage():
        own, gone = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        return own.ru_utime + own.ru_stime + gone.ru_utime + gone.ru_stime
    cpu, wall = usage(), time.monotonic()
    for i in range(frames):
        frame = {f"observation.images.camera{k}": images[(i + k) % 4] for k in range(cameras)}
        frame |= {"observation.state": np.zeros(7, np.float32), "action": np.zeros(7, np.float32)}
        frame["task"] = "measure"
        data.add_frame(frame)
    data.save_episode()
    cpu, wall = usage() - cpu, time.monotonic() - wall
megabytes = frames * cameras * height * width * 3 / 1e6
sys.stderr.flush()
print("RESULT " + json.dumps({"megabytes_per_cpu_s": megabytes / cpu, "frames_per_s": frames / wall}))
"""


def bench_lerobot(python: str, frames: int) -> dict[str, float]:
    done = subprocess.run(
        [python, "-c", LEROBOT, str(frames), str(HEIGHT), str(WIDTH), str(CAMERAS)],
        capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    result: dict[str, float] = json.loads(line.removeprefix("RESULT "))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="seconds instead of a minute")
    parser.add_argument("--publish", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--stall", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    from openvla_ros.bringup.dds import dds_environment

    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.update(dds_environment(os.environ))
    if arguments.publish:
        publish(arguments.publish)
        return
    if arguments.stall:
        stall(int(arguments.stall[0]), float(arguments.stall[1]))
        return
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    seconds, count, rounds = (5.0, 30, 2) if arguments.quick else (60.0, 150, 5)
    result: dict[str, Any] = {"benchmark": "record", "threads": threading.active_count()}
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'node':<16}{'asked':>8}{'sent':>8}{'dropped':>9}{'told':>6}{'MB/s':>8}{'cores':>8}")
        for name, image_format in (("raw", "raw"), ("jpeg", "jpeg"), ("raw, stalled", "raw")):
            r = bench_node(image_format, seconds, Path(folder) / name, stalled="stalled" in name)
            result[name] = r
            print(
                f"{name:<16}{r['asked']:>8}{r['sent']:>8}{r['dropped']:>9}{r['told']:>6}"
                f"{r['megabytes_per_s']:>8.1f}{r['cores']:>8.2f}"
            )
            if r["sent"] < 0.9 * r["asked"]:
                print("  this machine did not reach the load: nothing is shown by this row")
        result["goal_met"] = all(
            result[name]["dropped"] == 0 and result[name]["cores"] < GOAL_CORES for name in ("raw", "jpeg")
        )
    rates = {
        "ours": bench_writer(write_ours, count, rounds),
        "mcap": bench_writer(write_mcap, count, rounds),
        "rosbags": bench_writer(write_rosbags, count, rounds),
    }
    if python := os.environ.get(LEROBOT_PYTHON):
        rates["lerobot"] = bench_lerobot(python, count)["megabytes_per_cpu_s"]
    print(f"\n{'writer':<10}{'MB per CPU s':>14}{'ours / it':>11}")
    for name, rate in rates.items():
        print(f"{name:<10}{rate:>14.0f}{rates['ours'] / rate:>11.2f}")
    result["megabytes_per_cpu_s"] = rates
    result["ratios"] = {name: rates["ours"] / rate for name, rate in rates.items() if name != "ours"}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
