"""Training samples per second and core: this package's readers, beside the formats' own readers.

A sample is one random step: its image decoded to RGB, the instruction and the action. Time is the CPU
time of all threads of the reading process, so neither a loaded machine nor a multi-threaded reader skews
the result. The limit is decoding the same JPEG bytes and nothing else. Peers run in their own Python, if
you name one: OPENVLA_ROS_TFDS_PYTHON (sequential, as dlimp reads) and OPENVLA_ROS_LEROBOT_PYTHON (random
access, AV1 video).

    python benchmarks/bench_data.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from openvla_ros.data.bags.bag_export import write_episode
from openvla_ros.data.datasets.conversion import ConversionRequest, convert
from openvla_ros.data.datasets.export import Target
from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.data.episodes.encoded_images import ArrayFrames, EncodedFrames, decode_image, encoded_frame
from openvla_ros.data.lerobot.lerobot_writer import Storage
from openvla_ros.data.training.training_reader import TrainingReader
from openvla_ros.preprocessing.image_encoding import encode_jpeg
from openvla_ros.profile import load_profile
from openvla_ros.values.episode import Episode

GOAL_JPEG, GOAL_RAW = 500, 1000  # samples per second and core
TFDS_PYTHON, LEROBOT_PYTHON = "OPENVLA_ROS_TFDS_PYTHON", "OPENVLA_ROS_LEROBOT_PYTHON"

TFDS = """
import json, sys, time
import tensorflow as tf, tensorflow_datasets as tfds
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)
builder = tfds.builder_from_directory(sys.argv[1])
data = builder.as_dataset(split="train", decoders={"steps": tfds.decode.SkipDecoding()}, shuffle_files=True)
data = data.flat_map(lambda e: tf.data.Dataset.from_tensor_slices(e["steps"])).repeat().shuffle(1000, seed=0)
def decode(step):
    image = tf.io.decode_image(step["observation"]["image_primary"], expand_animations=False)
    return image, step["action"], step["language_instruction"]
options = tf.data.Options()
options.threading.private_threadpool_size = 1
data = iter(data.map(decode).with_options(options).as_numpy_iterator())
for _ in range(50):
    next(data)
began = time.process_time()
for _ in range(int(sys.argv[2])):
    next(data)
print("RESULT" + json.dumps(int(sys.argv[2]) / (time.process_time() - began)))
"""

LEROBOT = """
import json, random, sys, time
import torch
torch.set_num_threads(1)
from lerobot.datasets.lerobot_dataset import LeRobotDataset
data = LeRobotDataset("local/bench", root=sys.argv[1])
order = random.Random(0)
for _ in range(20):
    data[order.randrange(len(data))]
began = time.process_time()
for _ in range(int(sys.argv[2])):
    data[order.randrange(len(data))]
print("RESULT" + json.dumps(int(sys.argv[2]) / (time.process_time() - began)))
"""


def image(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """An image of smooth colours with fine noise: about as hard to compress as a camera image."""
    coarse = generator.integers(0, 256, (height // 16, width // 16, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + generator.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)


def episode(seed: int, steps: int, height: int, width: int, jpeg: bool) -> Episode:
    generator = np.random.default_rng(seed)
    frames = np.stack([image(generator, height, width) for _ in range(steps)])
    space = load_profile("widowx").space()
    return Episode(
        id=f"episode_{seed:04d}",
        instruction=f"put object {seed} on the plate",
        space=space,
        rate_hz=5.0,
        stamps_ns=10**9 + np.arange(steps) * 200_000_000,
        images={
            "primary": EncodedFrames([encode_jpeg(f, 95) for f in frames], "bench")
            if jpeg
            else ArrayFrames(frames)
        },
        actions=generator.uniform(space.lower, space.upper, (steps, 7)),
        poses=np.tile(np.eye(4), (steps, 1, 1)),
        gripper=generator.uniform(0, 1, steps),
    )


def write_bags(folder: Path, episodes: list[Episode]) -> Path:
    for index, item in enumerate(episodes):
        write_episode(folder / f"episode_{index:06d}", item)
    return folder


def export(bags: Path, folder: Path, target: Target, storage: Storage = "image") -> Path:
    convert(ConversionRequest(SourceRequest(bags), folder, target, storage=storage, group_size=64))
    return folder / f"{folder.name}.hdf5" if target == "hdf5" else folder


def ours(path: Path, count: int) -> float:
    reader = TrainingReader({"bench": SourceRequest(path).open()})
    samples = reader.iterate()
    for _ in range(50):
        next(samples)
    began = time.process_time()
    for _ in range(count):
        next(samples)
    return count / (time.process_time() - began)


def decoding(frames: list[bytes], count: int) -> float:
    began = time.process_time()
    for i in range(count):
        decode_image(frames[i % len(frames)], "bench")
    return count / (time.process_time() - began)


def peer(variable: str, program: str, path: Path, count: int) -> float | None:
    """Return the peer's rate, or None if no Python is named for it."""
    python = os.environ.get(variable)
    if not python:
        return None
    done = subprocess.run(
        [python, "-c", program, str(path), str(count)], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
             "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{variable}: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout.split("RESULT")[1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer and smaller samples")
    quick = parser.parse_args().quick
    count, repeats, episodes, steps = (200, 1, 6, 20) if quick else (1500, 3, 24, 40)
    height = width = 256  # as BridgeData V2 and most of Open X-Embodiment are stored
    cv2.setNumThreads(1)
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        kinds = {"jpeg": True, "raw": False}
        bags = {
            name: write_bags(
                root / f"bag_{name}", [episode(i, steps, height, width, kind) for i in range(episodes)]
            )
            for name, kind in kinds.items()
        }
        sources = {
            "rlds jpeg": export(bags["jpeg"], root / "rlds_jpeg", "rlds"),
            "bag jpeg": bags["jpeg"],
            "lerobot jpeg": export(bags["jpeg"], root / "lerobot_jpeg", "lerobot"),
            "bag raw": bags["raw"],
            "hdf5 raw": export(bags["raw"], root / "hdf5_raw", "hdf5"),
        }
        video = export(bags["jpeg"], root / "lerobot_video", "lerobot", "av1")
        images = SourceRequest(bags["jpeg"]).open()[0].images["primary"]
        frames = [encoded_frame(images, i) or b"" for i in range(steps)]
        for _ in range(repeats):
            rates.setdefault("limit: decoding alone", []).append(decoding(frames, count))
            for name, path in sources.items():
                rates.setdefault(f"ours, {name}", []).append(ours(path, count))
            rates.setdefault("ours, lerobot av1", []).append(ours(video, count // 5))
            for name, (variable, program, path, number) in {
                "tfds, rlds jpeg": (TFDS_PYTHON, TFDS, sources["rlds jpeg"] / "1.0.0", count),
                "lerobot, lerobot av1": (LEROBOT_PYTHON, LEROBOT, video, count // 5),
                "lerobot, lerobot jpeg": (LEROBOT_PYTHON, LEROBOT, sources["lerobot jpeg"], count),
            }.items():
                rate = peer(variable, program, path, number)
                if rate is not None:
                    rates.setdefault(name, []).append(rate)
    report({name: statistics.median(values) for name, values in rates.items()}, height, width)


def report(rates: dict[str, float], height: int, width: int) -> None:
    limit = rates["limit: decoding alone"]
    print(f"{'samples of ' + f'{width}×{height}':<28}{'per core-second':>16}{'of the limit':>14}{'goal':>8}")
    for name, rate in rates.items():
        goal = (
            "" if not name.startswith("ours") or "av1" in name else GOAL_RAW if "raw" in name else GOAL_JPEG
        )
        share = f"{rate / limit:.2f}" if "raw" not in name else ""
        print(f"{name:<28}{rate:>16.0f}{share:>14}{goal:>8}")
    ratios = {
        "ours_to_tfds": ("ours, rlds jpeg", "tfds, rlds jpeg"),
        "ours_to_lerobot_av1": ("ours, lerobot av1", "lerobot, lerobot av1"),
        "ours_to_lerobot_jpeg": ("ours, lerobot jpeg", "lerobot, lerobot jpeg"),
    }
    found = {k: round(rates[a] / rates[b], 2) for k, (a, b) in ratios.items() if a in rates and b in rates}
    print(json.dumps({"bench": "data", "rates": {k: round(v) for k, v in rates.items()}, **found}))


if __name__ == "__main__":
    main()
