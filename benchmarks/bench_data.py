"""Training data beside LeRobot: samples per second and core, conversion, and datasets of 10,000 episodes.

A sample is one random step: its image decoded to RGB, the instruction and the action. Time is the CPU time
of all threads of the reading process, so neither a loaded machine nor a multi-threaded reader skews the
result. The limit is decoding the same JPEG bytes and nothing else. LeRobot reads the same files with its own
DataLoader, and writes the same episodes with its own API from images that are decoded already; the faster of
its two ways to write videos counts. It has an environment of its own, which is made if it is not there
(5 GB; OPENVLA_ROS_LEROBOT_PYTHON names another one). With OPENVLA_ROS_TFDS_PYTHON, a Python with
tensorflow-datasets, its sequential reading is measured too.

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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from data_conversion import against_lerobot
from many_episodes import opening, write_many

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tools"))
from openvla_ros.data.bags.bag_export import write_episode  # noqa: E402
from openvla_ros.data.datasets.conversion import ConversionRequest, convert  # noqa: E402
from openvla_ros.data.datasets.export import Target  # noqa: E402
from openvla_ros.data.datasets.open_dataset import SourceRequest  # noqa: E402
from openvla_ros.data.episodes.encoded_images import (  # noqa: E402
    ArrayFrames,
    EncodedFrames,
    decode_image,
    encoded_frame,
)
from openvla_ros.data.lerobot.lerobot_writer import Storage  # noqa: E402
from openvla_ros.data.training.training_reader import TrainingReader  # noqa: E402
from openvla_ros.preprocessing.image_encoding import encode_jpeg  # noqa: E402
from openvla_ros.profile import load_profile  # noqa: E402
from openvla_ros.values.episode import Episode  # noqa: E402
from peers import lerobot  # noqa: E402
from peers.rows import PeerError  # noqa: E402

# At least this many times LeRobot's rate.
AV1_RATIO, IMAGE_RATIO, CONVERSION_RATIO = 5.0, 3.0, 4.0
# Opening MANY episodes, at most; it is measured with a sixteenth and a quarter of them too.
MANY, OPEN_S, OPEN_MEGABYTES = 10_000, 1.0, 200.0
TFDS_PYTHON, LEROBOT_PYTHON = "OPENVLA_ROS_TFDS_PYTHON", "OPENVLA_ROS_LEROBOT_PYTHON"
IN_LEROBOT = Path(__file__).with_name("data_in_lerobot.py")

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
print(json.dumps({"rate": int(sys.argv[2]) / (time.process_time() - began)}))
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


def run(command: Sequence[object]) -> dict[str, Any]:
    """Return what a peer's program prints in its last line."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
             "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "SVT_LOG": "1"},
    )  # fmt: skip
    if done.returncode:
        raise PeerError(f"{command[0]}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def lerobot_python() -> str:
    """Return the Python of LeRobot's environment; raises ``PeerError`` if it cannot be had."""
    named = os.environ.get(LEROBOT_PYTHON)
    return named or str(lerobot.environment(REPOSITORY / "build" / "peers" / "lerobot"))


def loading(root: Path, quick: bool, peer: str | None) -> dict[str, float]:
    """Return samples per core-second of every reader, the median of a few runs taken in turn."""
    count, repeats, episodes, steps = (200, 1, 6, 20) if quick else (1500, 3, 24, 40)
    size = 256  # as BridgeData V2 and most of Open X-Embodiment are stored
    bags = {
        kind: write_bags(
            root / f"bag_{kind}", [episode(i, steps, size, size, kind == "jpeg") for i in range(episodes)]
        )
        for kind in ("jpeg", "raw")
    }
    sources = {
        "rlds jpeg": export(bags["jpeg"], root / "rlds_jpeg", "rlds"),
        "bag jpeg": bags["jpeg"],
        "lerobot jpeg": export(bags["jpeg"], root / "lerobot_jpeg", "lerobot"),
        "lerobot av1": export(bags["jpeg"], root / "lerobot_video", "lerobot", "av1"),
        "bag raw": bags["raw"],
        "hdf5 raw": export(bags["raw"], root / "hdf5_raw", "hdf5"),
    }
    images = SourceRequest(bags["jpeg"]).open()[0].images["primary"]
    frames = [encoded_frame(images, i) or b"" for i in range(steps)]
    rates: dict[str, list[float]] = {}
    for _ in range(repeats):
        rates.setdefault("limit: decoding alone", []).append(decoding(frames, count))
        for name, path in sources.items():
            number = count // 3 if "av1" in name else count
            rates.setdefault(f"ours, {name}", []).append(ours(path, number))
            if peer is not None and name.startswith("lerobot"):
                found = run([peer, IN_LEROBOT, "load", path, number])
                rates.setdefault(f"LeRobot, {name}", []).append(found["rate"])
        if tfds := os.environ.get(TFDS_PYTHON):
            found = run([tfds, "-c", TFDS, sources["rlds jpeg"] / "1.0.0", count])
            rates.setdefault("tfds, rlds jpeg", []).append(found["rate"])
    return {name: statistics.median(values) for name, values in rates.items()}


def print_rates(rates: dict[str, float]) -> None:
    limit = rates["limit: decoding alone"]
    print(f"{'samples of 256x256':<28}{'per core-second':>16}{'of the limit':>14}")
    for name, rate in rates.items():
        share = f"{rate / limit:.2f}" if "raw" not in name and "av1" not in name else ""
        print(f"{name:<28}{rate:>16.0f}{share:>14}")


def many(root: Path, quick: bool) -> dict[str, list[dict[str, float]]]:
    """Return what writing and opening cost at 1, 4 and 16 times a number of episodes, for two formats."""
    pattern = episode(0, 3, 32, 32, jpeg=True)
    most = MANY // 20 if quick else MANY
    found: dict[str, list[dict[str, float]]] = {}
    print(f"{'format':<10}{'episodes':>10}{'write, s':>10}{'open, s':>10}{'MB':>8}{'last episode, s':>18}")
    for target in ("lerobot", "rlds"):
        for count in (most // 16, most // 4, most):
            began = time.perf_counter()
            folder = write_many(root / f"{target}_{count}", target, pattern, count)
            cost = {"write_s": round(time.perf_counter() - began, 2), **opening(folder)}
            found.setdefault(target, []).append(cost)
            print(
                f"{target:<10}{count:>10}{cost['write_s']:>10.2f}{cost['open_s']:>10.3f}"
                f"{cost['megabytes']:>8.1f}{cost['last_episode_s']:>18.3f}"
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer and smaller samples")
    quick = parser.parse_args().quick
    cv2.setNumThreads(1)
    result: dict[str, Any] = {"bench": "data"}
    try:
        peer: str | None = lerobot_python()
    except PeerError as error:
        peer, result["lerobot"] = None, f"not measured: {error}"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rates = loading(root, quick, peer)
        print_rates(rates)
        result["rates"] = {name: round(rate) for name, rate in rates.items()}
        passed = peer is not None
        if peer is not None:
            for name, goal in (("lerobot av1", AV1_RATIO), ("lerobot jpeg", IMAGE_RATIO)):
                ratio = rates[f"ours, {name}"] / rates[f"LeRobot, {name}"]
                result[f"{name} ratio"], passed = round(ratio, 2), passed and ratio >= goal
            conversion = against_lerobot(root / "rlds_jpeg", root, lambda *a: run([peer, IN_LEROBOT, *a]))
            result["conversion"] = conversion
            passed = passed and min(conversion["ratios"].values()) >= CONVERSION_RATIO
            passed = passed and conversion["same"]
        result["opening"] = found = many(root, quick)
    largest = [costs[-1] for costs in found.values()]
    passed = passed and all(
        cost["open_s"] <= OPEN_S and cost["megabytes"] <= OPEN_MEGABYTES for cost in largest
    )
    print(json.dumps({**result, "pass": passed}))


if __name__ == "__main__":
    main()
